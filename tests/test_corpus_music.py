"""From scores to sound: reading, excerpts, keys, chords, drums, and what the rendered audio measures."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from datamodules.corpus.accompaniment import BASS_STYLES, CHORD_STYLES, bass_notes, chord_notes
from datamodules.corpus.arranging import Arrangement, Part, Stroke, fitted, performed, without_overlaps
from datamodules.corpus.catalogue import catalogue
from datamodules.corpus.drums import KICK, drum_hits, metre_permits
from datamodules.corpus.harmony import harmonise
from datamodules.corpus.instruments import CONSORTS, INSTRUMENTS, KITS, instrument
from datamodules.corpus.keys import estimate_key
from datamodules.corpus.musicxml import stretch
from datamodules.corpus.orchestration import arrange
from datamodules.corpus.packages import package_folder, soundfont_path
from datamodules.corpus.pieces import LONGEST_SECONDS, SHORTEST_SECONDS, Job, choose, choose_excerpt
from datamodules.corpus.reading import UnusableScoreError, read_score
from datamodules.corpus.rendering import SAMPLE_RATE, TAIL_SECONDS, render
from datamodules.corpus.scores import Bar, Note, Score, excerpt, joined_bars, played_round, steady_runs
from datamodules.corpus.selection import SCORES, Selection

CORPUS = package_folder("music21") / "corpus"
JIG = """X:1
T:A Jig
M:6/8
L:1/8
K:D
A|dfa afd|gfe dcB|Afd cBc|d3 d2:|
|:a|afd Adf|gfe dcB|[1 Afd cBc|d3 d2:|[2 Afd efg|d3 d2|]
"""


def bars(count, beats=4.0, metre=(4, 4), tempo=None):
    return tuple(Bar(index * beats, beats, metre, tempo) for index in range(count))


def scale_score(pitches=(60, 62, 64, 65, 67, 69, 71, 72), count=8):
    notes = tuple(Note(float(i), 1.0, pitches[i % len(pitches)]) for i in range(4 * count))
    return Score(notes, bars(count))


def test_a_score_of_which_many_excerpts_are_damaged_is_played_in_the_end():
    """Piece 6,934 of seed 1 is of a side of a collection with a single score, whose first excerpt is too short."""
    hand = Selection(catalogue(), 1).deal(6935)[6934]
    assert len({entry.score for entry in hand}) == 1
    job = Job(6934, 1, tuple(hand), Path("unused.flac"), soundfont_path(None), "recipe")
    entry, score, bpm, _ = choose(job)
    assert entry == hand[0]
    assert SHORTEST_SECONDS * 0.75 <= score.beats * 60 / bpm <= LONGEST_SECONDS
    with pytest.raises(RuntimeError, match="none of 12 scores"):
        choose(replace(job, hand=job.hand[:SCORES]))


# ---- reading -------------------------------------------------------------------------------------------------------
def test_repeats_and_endings_are_played_out():
    score = read_score(JIG)
    assert score.voices == 1
    # Pick-up and last bar of a strain make one bar: 4 + 4 bars of each strain, the last one short.
    assert [bar.whole for bar in score.bars] == [False] + [True] * 15 + [False]
    assert score.beats == 16 * 3
    first, second = ([n.pitch for n in score.notes if a <= n.start < b] for a, b in ((0, 12), (12, 24)))
    assert first == second
    pitches = [note.pitch for note in score.notes]
    ending_one, ending_two = [69, 78, 74, 73, 71, 73], [69, 78, 74, 76, 78, 79]
    text = ",".join(map(str, pitches))
    # Twice in the first strain, once as first ending; the second ending once.
    assert text.count(",".join(map(str, ending_one))) == 3
    assert text.count(",".join(map(str, ending_two))) == 1
    assert score.tonic == 2


def test_a_second_ending_is_not_followed_by_a_third():
    score = read_score("X:1\nT:T\nM:2/4\nL:1/4\nK:C\n|:cd|[1 ef:|[2 ga:|\n|:bb|cc:|\n")
    assert [note.pitch - 72 for note in score.notes] == [0, 2, 4, 5, 0, 2, 7, 9, 11, 11, 0, 0, 11, 11, 0, 0]


def test_ties_become_one_note_and_the_tempo_counts_quarters():
    score = read_score("X:1\nT:T\nM:6/8\nL:1/8\nQ:3/8=120\nK:C\nc3-c3|d3 e3|f3 g3|c6|\n")
    assert score.notes[0] == Note(0.0, 3.0, 72, 0)
    assert {bar.tempo for bar in score.bars} == {180.0}


def test_four_voices_come_from_the_top_down():
    score = read_score(stretch(CORPUS / "bach" / "bwv66.6.mxl", random.Random(0)))
    means = [np.mean([n.pitch for n in score.notes if n.voice == voice]) for voice in range(score.voices)]
    assert len(means) == 4
    assert means == sorted(means, reverse=True)
    # The chorale's first soprano notes: C sharp, B, A, B, C sharp, E.
    assert [n.pitch for n in score.notes if n.voice == 0][:6] == [73, 71, 69, 71, 73, 76]


def test_a_stretch_of_a_long_movement_is_what_the_whole_has_there():
    """The cut before parsing against music21 on the uncut file."""
    from music21 import converter

    path = CORPUS / "haydn" / "opus1no1" / "movement1.mxl"
    whole = converter.parse(path, forceSource=True, storePickle=False).parts[0]
    at = {
        m.offset: [n.pitch.midi for n in m.flatten().notes if n.quarterLength]
        for m in whole.getElementsByClass("Measure")
    }

    class Late(random.Random):
        def random(self):
            return 0.0

        def randrange(self, *_):
            return 30

    score = read_score(stretch(path, Late()))
    measures = [pitches for offset, pitches in sorted(at.items())][30:34]
    length = score.bars[0].beats
    top = [n.pitch for n in score.notes if n.start < 4 * length and n.voice == 0]
    flat = [pitch for pitches in measures for pitch in pitches]
    assert score.bars[0].metre == tuple(
        map(int, whole.recurse().getElementsByClass("TimeSignature")[0].ratioString.split("/"))
    )
    assert top[:12] == flat[:12]


@pytest.mark.parametrize(
    "text", ["X:1\nT:Nothing\nM:4/4\nL:1/8\nK:C\n", "X:1\nK:C\n[[[[", "<score-partwise/>", "<broken"]
)
def test_damaged_scores_are_unusable_not_fatal(text):
    with pytest.raises(UnusableScoreError):
        read_score(text)


# ---- plain scores --------------------------------------------------------------------------------------------------
def test_an_excerpt_starts_at_zero_and_cuts_what_hangs_over():
    score = Score((Note(0, 6, 60), Note(6, 4, 62), Note(10, 2, 64)), bars(3))
    part = excerpt(score, 1, 2)
    assert part.notes == (Note(2, 2, 62),)
    assert part.bars == bars(1)


def test_half_bars_at_a_repeat_are_joined_and_a_pickup_is_not():
    parts = [Bar(0, 1, (4, 4)), Bar(1, 4, (4, 4)), Bar(5, 3, (4, 4)), Bar(8, 1, (4, 4)), Bar(9, 4, (4, 4))]
    assert [bar.beats for bar in joined_bars(parts)] == [1, 4, 4, 4]


@pytest.mark.parametrize(("last", "beats"), [(3.0, [1, 4, 4, 4, 3]), (2.0, [1, 4, 4, 4, 3]), (4.0, [1, 4, 4, 4, 4])])
def test_a_tune_played_round_keeps_its_bars(last, beats):
    score = Score((Note(0, 1, 60), Note(1, 4, 62)), (Bar(0, 1, (4, 4)), Bar(1, 4, (4, 4)), Bar(5, last, (4, 4))))
    again = played_round(score, 2)
    assert [bar.beats for bar in again.bars] == beats
    assert all(a.end == b.start for a, b in zip(again.bars, again.bars[1:], strict=False))


def test_steady_runs_break_at_metre_tempo_and_short_bars():
    four, three = bars(4), [Bar(16 + 3 * i, 3, (3, 4)) for i in range(4)]
    faster = [Bar(28 + 3 * i, 3, (3, 4), 90.0) for i in range(2)]
    short = [Bar(34, 2, (3, 4), 90.0), Bar(36, 3, (3, 4), 90.0)]
    score = Score((), (*four, *three, *faster, *short))
    assert steady_runs(score) == [(0, 4), (4, 8), (8, 11), (10, 12)]


@pytest.mark.parametrize("bpm", [60.0, 92.0, 180.0])
def test_excerpts_have_the_length_asked_for_and_start_at_a_bar(bpm):
    for seed in range(40):
        score = choose_excerpt(scale_score(count=32), bpm, random.Random(seed))
        assert 9 <= score.beats * 60 / bpm <= 40
        assert score.notes[0] == Note(0.0, 1.0, 60)


# ---- keys and chords -----------------------------------------------------------------------------------------------
def test_key_estimates_are_music21s():
    """music21's Krumhansl-Kessler analysis as the independent reference."""
    from music21 import analysis, note, stream

    draws = random.Random(1)
    for _ in range(12):
        notes = [
            Note(
                float(i),
                draws.choice((0.5, 1.0, 2.0)),
                draws.choice((60, 62, 64, 65, 67, 69, 71)) + draws.choice((0, 0, 0, 1)),
            )
            for i in range(40)
        ]
        theirs = stream.Stream([note.Note(one.pitch, quarterLength=one.beats) for one in notes])
        best = analysis.discrete.KrumhanslKessler(theirs).getSolution(theirs)
        ours = estimate_key(notes)
        assert (ours.tonic, ours.mode) == (best.tonic.pitchClass, best.mode)
        assert abs(ours.correlation - best.correlationCoefficient) < 1e-3


def test_chords_follow_the_tune():
    line = [60, 64, 67, 64] * 2 + [65, 69, 72, 69] + [67, 71, 74, 71] + [60, 64, 67, 60]
    score = Score(tuple(Note(float(i), 1.0, pitch) for i, pitch in enumerate(line)), bars(5))
    by_bar = {chord.start: set(chord.classes) for chord in harmonise(score, 0)}
    assert [by_bar[at] for at in (0.0, 4.0, 8.0, 12.0, 16.0)] == [
        {0, 4, 7},
        {0, 4, 7},
        {5, 9, 0},
        {7, 11, 2},
        {0, 4, 7},
    ]


@pytest.mark.parametrize("metre", [(4, 4), (2, 2), (2, 4), (3, 4), (6, 8), (9, 8)])
def test_accompaniments_stay_in_the_bar_the_chord_and_the_compass(metre):
    beats = metre[0] * 4 / metre[1]
    score = Score(tuple(Note(i * beats, beats, 62 + i) for i in range(6)), bars(6, beats, metre))
    chords = harmonise(score, 2)
    piano, bass = instrument("piano"), instrument("electric bass")
    made = [(style, chord_notes(chords, metre, style, piano), piano) for style in CHORD_STYLES]
    made += [(style, bass_notes(chords, metre, style, bass), bass) for style in BASS_STYLES]
    for _, notes, player in made:
        assert notes
        for note in notes:
            chord = next(c for c in chords if c.start <= note.start + 1e-6 < c.start + c.beats)
            assert note.pitch % 12 in chord.classes
            assert player.low <= note.pitch <= player.high
            assert note.beats > 0


# ---- parts ---------------------------------------------------------------------------------------------------------
def test_drums_play_whole_bars_in_every_metre_that_permits():
    for metre in [(4, 4), (2, 2), (2, 4), (3, 4), (3, 8), (6, 8), (9, 8), (12, 8)]:
        assert metre_permits(metre)
        beats = metre[0] * 4 / metre[1]
        pickup = Bar(0, 0.5, metre)
        rest = [Bar(0.5 + i * beats, beats, metre) for i in range(16)]
        for seed in range(10):
            hits = drum_hits([pickup, *rest], random.Random(seed))
            assert min(hit.start for hit in hits) >= 0.5
            assert max(hit.start for hit in hits) < rest[-1].end
            assert all(1 <= hit.velocity <= 127 for hit in hits)
    assert not metre_permits((5, 4))


def test_the_kick_falls_on_the_first_beat():
    firsts = {bar.start for bar in bars(8)}
    for seed in range(20):
        hits = drum_hits(bars(8), random.Random(seed))
        kicks = {hit.start for hit in hits if hit.key == KICK}
        assert not kicks or firsts - {28.0} <= kicks


def test_octaves_are_moved_and_pitch_classes_kept():
    notes = [Note(float(i), 1.0, pitch) for i, pitch in enumerate(range(30, 100, 3))]
    moved = fitted(notes, 55, 80)
    assert all(55 <= note.pitch <= 80 for note in moved)
    assert [note.pitch % 12 for note in moved] == [note.pitch % 12 for note in notes]
    assert fitted([Note(0, 1, 60), Note(1, 1, 64)], 60, 90) == [Note(0, 1, 60), Note(1, 1, 64)]


def test_a_performance_has_life_but_keeps_time():
    score = scale_score()
    strokes = performed(score.notes, score.bars, 120.0, random.Random(0))
    late = np.array([stroke.start - note.start for stroke, note in zip(strokes, score.notes, strict=True)]) * 0.5
    assert 0.001 < late.std() < 0.01
    assert np.abs(late).max() <= 0.0101
    assert len({stroke.velocity for stroke in strokes}) > 5
    first = np.mean([stroke.velocity for stroke in strokes[::4]])
    assert first > np.mean([stroke.velocity for stroke in strokes[2::4]])


def test_a_pitch_struck_again_ends_the_one_before():
    kept = without_overlaps([Stroke(0, 4, 60, 80), Stroke(1, 1, 60, 80), Stroke(1, 2, 60, 80), Stroke(0, 4, 64, 80)])
    assert kept == (Stroke(0, 1, 60, 80), Stroke(0, 4, 64, 80), Stroke(1, 2, 60, 80))


def test_every_arrangement_stays_in_its_players_compass():
    chorale = read_score(stretch(CORPUS / "bach" / "bwv66.6.mxl", random.Random(0)))
    drums = 0
    for seed in range(120):
        score = chorale if seed % 2 else scale_score()
        made = arrange(score, tonic=0, bpm=100.0, rng=random.Random(seed))
        assert made.parts
        drums += any(part.role == "drums" for part in made.parts)
        for part in made.parts:
            player = instrument(part.instrument)
            assert part.strokes
            assert all(player.low <= stroke.pitch <= player.high for stroke in part.strokes)
            assert all(0 <= stroke.start < score.beats and 1 <= stroke.velocity <= 127 for stroke in part.strokes)
    assert 0.25 < drums / 120 < 0.6


def test_instrument_names_are_unique_and_consorts_known():
    names = [one.name for one in (*INSTRUMENTS, *KITS)]
    assert len(set(names)) == len(names)
    for consort in CONSORTS:
        assert all("voice" in instrument(name).uses or "bass" in instrument(name).uses for name in consort)


# ---- sound ---------------------------------------------------------------------------------------------------------
def played(strokes, name="flute", bpm=120.0, room="dry", beats=8.0):
    return render(Arrangement((Part(name, "melody", tuple(strokes)),), bpm, beats, room), soundfont_path(None))


def cents_from(wav, hertz):
    """How far the strongest partial near ``hertz`` lies from it, by the phase-free parabola through the FFT's peak."""
    spectrum = np.abs(np.fft.rfft(wav * np.hanning(len(wav)), 1 << 19))
    frequencies = np.fft.rfftfreq(1 << 19, 1 / SAMPLE_RATE)
    near = np.flatnonzero(np.abs(np.log2(np.maximum(frequencies, 1) / hertz)) < 1 / 24)
    return 1200 * np.log2(frequencies[near[spectrum[near].argmax()]] / hertz), spectrum[near].max() / spectrum.max()


@pytest.mark.parametrize(
    ("name", "pitch"), [("flute", 69), ("piano", 69), ("church organ", 57), ("clarinet", 72), ("viola", 62)]
)
def test_notes_sound_at_their_pitch(name, pitch):
    wav = played([Stroke(0, 8, pitch, 90)], name)
    cents, strength = cents_from(wav[SAMPLE_RATE // 2 : 3 * SAMPLE_RATE], 440 * 2 ** ((pitch - 69) / 12))
    assert abs(cents) < 15
    assert strength > 0.1


@pytest.mark.parametrize("bpm", [60.0, 150.0])
def test_onsets_fall_where_the_tempo_says(bpm):
    wav = played([Stroke(float(i), 0.4, 72, 100) for i in range(8)], "xylophone", bpm)
    energy = np.square(wav[: len(wav) // 160 * 160].reshape(-1, 160)).mean(axis=1)
    rise = np.log(energy[1:] + 1e-9) - np.log(energy[:-1] + 1e-9)
    expected = np.arange(8) * 60 / bpm
    for at in expected[1:]:
        frame = round(at * SAMPLE_RATE / 160)
        window = slice(frame - 8, frame + 8)
        assert abs((rise[window].argmax() + frame - 8 + 1) * 0.005 - at) <= 0.015
        assert rise[window].max() > 1.0
    assert len(wav) == round((8 * 60 / bpm + TAIL_SECONDS) * SAMPLE_RATE)


def test_parts_are_brought_to_their_levels():
    """A soft and a loud instrument in the same role come out alike."""
    strokes = tuple(Stroke(float(i), 0.9, 67, 90) for i in range(8))
    spectra = []
    for name in ("flute", "trumpet"):
        both = Arrangement(
            (Part(name, "melody", strokes), Part("electric bass", "bass", (Stroke(0, 8, 31, 90),))), 120, 8
        )
        spectra.append(np.abs(np.fft.rfft(render(both, soundfont_path(None)))))
    hertz = np.fft.rfftfreq(2 * (len(spectra[0]) - 1), 1 / SAMPLE_RATE)
    low, high = (hertz > 30) & (hertz < 180), hertz > 300
    shares = [10 * np.log10(np.square(s[high]).sum() / np.square(s[low]).sum()) for s in spectra]
    assert abs(shares[0] - shares[1]) < 4


def test_a_hall_rings_longer_than_a_dry_room():
    tails = {}
    for room in ("dry", "room", "hall"):
        wav = played([Stroke(0, 1, 69, 100)], "xylophone", room=room, beats=4)
        tails[room] = np.square(wav[SAMPLE_RATE : SAMPLE_RATE * 3 // 2]).mean() / np.square(wav).mean()
    assert tails["dry"] < tails["room"] < tails["hall"]


def test_rendering_repeats_to_the_bit_and_does_not_clip():
    strokes = [Stroke(0.5 * i, 0.5, 60 + i, 118) for i in range(12)]
    one, two = played(strokes, "trumpet", room="hall"), played(strokes, "trumpet", room="hall")
    assert np.array_equal(one, two)
    assert np.abs(one).max() <= 10 ** (-1 / 20) + 1e-6


def test_silence_is_refused():
    with pytest.raises(ValueError, match="silent"):
        played([], "piano")
