"""One piece of the corpus from first to last: score, excerpt, tempo, arrangement, audio, facts, caption, file."""

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.corpus.arranging import Arrangement
from datamodules.corpus.captions import write_caption
from datamodules.corpus.catalogue import Entry
from datamodules.corpus.instruments import ensemble_of, instrument
from datamodules.corpus.keys import estimate_key
from datamodules.corpus.orchestration import arrange
from datamodules.corpus.reading import UnusableScoreError
from datamodules.corpus.scores import Score, excerpt, played_round, steady_runs
from datamodules.corpus.selection import SCORES
from datamodules.corpus.wording import tempo_class
from datamodules.errors import InputError

SHORTEST_SECONDS, LONGEST_SECONDS = 12.0, 40.0
# Notes a second that the top voice plays, from the slowest to the fastest, and the most quarter notes a minute.
_SLOWEST = 52
_DANCE = (3.4, 6.6, 208)
_AIR = (2.2, 4.8, 160)
_PACES = {
    "": _AIR,
    "air": _AIR,
    "march": _AIR,
    "waltz": _AIR,
    "minuet": _AIR,
    "chorale": (0.95, 1.9, 116),
    "prelude": (3.0, 6.0, 120),
    "quartet movement": (1.9, 4.8, 168),
}
_LICENSE = "score: public domain, encoded in music21's corpus; sound: {soundfont}"
_SOUNDFONT_LICENSES = {"TimGM6mb.sf2": "TimGM6mb.sf2 (GPL-2)"}


@dataclass(frozen=True)
class Job:
    """All that a process needs to make one piece.

    Attributes:
        number: of the piece, from 0.
        seed: of the corpus.
        hand: the score to play, then those to try where it is damaged.
        path: of the FLAC file.
        soundfont: file to play with.
        recipe: name of the way of making, kept in the file.
    """

    number: int
    seed: int
    hand: tuple[Entry, ...]
    path: Path
    soundfont: Path
    recipe: str


def make_piece(job: Job) -> dict[str, Any]:
    """Renders a piece into its file, which is put in place whole, and returns its manifest line.

    The line travels inside the FLAC file as its comment: what is finished can be told from the file alone.
    """
    from datamodules.corpus.rendering import SAMPLE_RATE, render

    entry, score, bpm, source = choose(job)
    key = estimate_key(score.notes)
    arrangement = arrange(score, tonic=key.tonic, bpm=bpm, rng=_draws(job, "arrangement"))
    samples = render(arrangement, job.soundfont)
    facts = {
        **_facts(entry, arrangement, score),
        "bpm_source": source,
        "key": key.name,
        "key_correlation": round(key.correlation, 3),
        "seed": job.seed,
        "license": _LICENSE.format(soundfont=_SOUNDFONT_LICENSES.get(job.soundfont.name, job.soundfont.name)),
        "recipe": job.recipe,
    }
    caption, stated = write_caption(facts, _draws(job, "caption"))
    line = {
        "id": job.path.stem,
        "duration": round(len(samples) / SAMPLE_RATE, 6),
        "sample_rate": SAMPLE_RATE,
        "caption": caption,
        "split": entry.split,
        **facts,
        "caption_facts": stated,
    }
    _write(job.path, samples, SAMPLE_RATE, json.dumps(line, ensure_ascii=False))
    return line


def _write(path: Path, samples: Any, sample_rate: int, comment: str) -> None:
    import soundfile

    partial = partial_path(path)
    try:
        with soundfile.SoundFile(str(partial), "w", sample_rate, 1, "PCM_16", format="FLAC") as file:
            file.comment = comment
            file.write(samples)
        partial.replace(path)
    except (OSError, soundfile.LibsndfileError) as error:
        raise InputError(f"{path}: cannot be written ({error}); is the disk full?") from error


def partial_path(path: Path) -> Path:
    """Where a piece is written before it is moved into place."""
    return path.with_name(path.name + ".partial")


def finished_line(path: Path, seed: int, recipe: str) -> dict[str, Any] | None:
    """The manifest line inside a finished piece; None where there is none, or one made otherwise."""
    line = stored_line(path)
    return line if line.get("seed") == seed and line.get("recipe") == recipe else None


def stored_line(path: Path) -> dict[str, Any]:
    """The manifest line that a piece of any corpus carries; empty where the file is missing or carries none."""
    import soundfile

    try:
        with soundfile.SoundFile(str(path)) as file:
            line = json.loads(file.comment)
    except (OSError, RuntimeError, ValueError):
        return {}
    return line if isinstance(line, dict) else {}


def choose(job: Job) -> tuple[Entry, Score, float, str]:
    """The first score of the hand that can be played: entry, excerpt, quarter notes a minute, where they came from."""
    for attempt, entry in enumerate(job.hand):
        rng = _draws(job, entry.score if attempt < SCORES else f"{entry.score}/{attempt}")
        try:
            score = choose_run(entry.read(rng), rng)
            bpm, source = choose_tempo(score, entry, rng)
            return entry, choose_excerpt(score, bpm, rng), bpm, source
        except UnusableScoreError:
            continue
    raise RuntimeError(
        f"piece {job.number}: none of {len(job.hand)} scores can be played; is music21's corpus complete?"
    )


def choose_run(score: Score, rng: random.Random) -> Score:
    """A part of the score that stays in one time signature and tempo; the longer a run, the likelier.

    Raises:
        UnusableScoreError: none has four bars.
    """
    runs = [run for run in steady_runs(score) if run[1] - run[0] >= 4]
    if not runs:
        raise UnusableScoreError("no four bars in one metre")
    # Cubed: what is left of a tune after a damaged bar should seldom win.
    first, last = rng.choices(runs, [(last - first) ** 3 for first, last in runs])[0]
    return excerpt(score, first, last)


def choose_tempo(score: Score, entry: Entry, rng: random.Random) -> tuple[float, str]:
    """Quarter notes a minute: the score's own ("score"), or drawn by how dense its top voice is ("assigned")."""
    marked = score.bars[0].tempo
    if marked is not None:
        return round(marked, 2), "score"
    top = [note for note in score.notes if note.voice == 0]
    density = len(top) / max(1e-6, sum(note.beats for note in top))
    slowest, fastest, ceiling = _PACES.get(entry.form, _DANCE)
    drawn = 60 * rng.uniform(slowest, fastest) / max(density, 1e-6)
    # What is out of bounds is drawn again near them rather than set to them: no tempo should stand out.
    if not _SLOWEST <= drawn <= ceiling:
        drawn = rng.uniform(0.75 * ceiling, ceiling) if drawn > ceiling else rng.uniform(_SLOWEST, 1.25 * _SLOWEST)
    return float(round(drawn)), "assigned"


def choose_excerpt(score: Score, bpm: float, rng: random.Random) -> Score:
    """Twelve to forty seconds of a score in one time signature, from a bar line to a bar line.

    A tune that is too short is played over again. Phrases are mostly four bars, so excerpts begin at a fourth bar.

    Raises:
        UnusableScoreError: it is too short, or does not sound.
    """
    seconds = 60 / bpm
    if score.beats * seconds < 5:
        raise UnusableScoreError("too short")
    if score.beats * seconds < SHORTEST_SECONDS + 4:
        score = played_round(score, int((SHORTEST_SECONDS + 4) / (score.beats * seconds)) + 1)
        if not all(bar.whole for bar in score.bars[1:-1]):
            raise UnusableScoreError("does not join up with itself")
    wanted = min(rng.uniform(SHORTEST_SECONDS + 2, LONGEST_SECONDS - 4), score.beats * seconds)
    pickup = 0 if score.bars[0].whole else 1
    starts = [0, *range(4 + pickup, len(score.bars), 4)]
    first = rng.choice([at for at in starts if (score.beats - score.bars[at].start) * seconds >= wanted - 1e-6])
    last = first + 1
    while last < len(score.bars) and (score.bars[last].end - score.bars[first].start) * seconds <= wanted + 1e-6:
        last += 1
    chosen = excerpt(score, first, last)
    sounding = max(sum(n.beats for n in chosen.notes if n.voice == voice) for voice in range(max(1, chosen.voices)))
    if not 0.75 * SHORTEST_SECONDS <= chosen.beats * seconds <= LONGEST_SECONDS or sounding < 0.4 * chosen.beats:
        raise UnusableScoreError("no stretch of the right length that sounds")
    return chosen


def _facts(entry: Entry, arrangement: Arrangement, score: Score) -> dict[str, Any]:
    names = list(dict.fromkeys(part.instrument for part in arrangement.parts))
    lead = next((part.instrument for part in arrangement.parts if part.role == "melody"), "")
    return {
        "instruments": names,
        "families": list(dict.fromkeys(instrument(name).family for name in names)),
        "lead": lead if len(names) > 1 else "",
        "ensemble": ensemble_of([part.instrument for part in arrangement.parts if part.role == "voice"]),
        "drums": any(part.role == "drums" for part in arrangement.parts),
        "bpm": arrangement.bpm,
        "tempo": tempo_class(arrangement.bpm),
        "time_signature": "{}/{}".format(*score.bars[0].metre),
        "form": entry.form,
        "room": arrangement.room,
        "collection": entry.collection,
        "composer": entry.composer,
        "title": entry.title,
        "score": entry.score,
    }


def _draws(job: Job, purpose: str) -> random.Random:
    return random.Random(f"{job.seed}/{job.number}/{purpose}")
