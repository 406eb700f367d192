"""Samples of any length side by side, audio that is continued, and what memory holds."""

import copy
from functools import partial

import pytest
import soundfile
import tiny
import torch
from plain_decoding import loop

from datamodules.errors import InputError
from datamodules.sample_order import derived_seed
from lightning_modules.conditioning.conditions import Condition, Conditions
from lightning_modules.generation import batches, engine
from lightning_modules.generation.decoder import Decoder, Request
from lightning_modules.generation.engine import draw_codes
from lightning_modules.generation.guidance import Branches, branches
from lightning_modules.generation.model import MusicModel
from lightning_modules.generation.sampling import Sampling, noise
from lightning_modules.lm.patterns import PATTERNS

TEXTS = ["a calm piano", "", "drums", "a fast violin over a slow bass, with a choir behind", "a calm flute"]
DURATIONS = [0.31, 0.05, 0.2, 0.12, 0.0101]
SEEDS = [3, 5, 5, 2**40, 0]
AUDIO = torch.from_numpy(tiny.sine(0.1, tiny.RATE)).T.float()


def bits(logits, noise, sampling):
    """In place of drawing: codes that the last bit of any logit changes."""
    return logits.view(torch.int32).long().sum(-1) % logits.shape[-1]


@pytest.fixture
def fragile(monkeypatch):
    monkeypatch.setattr(engine, "draw", bits)


@pytest.mark.parametrize("pattern", [*PATTERNS, "delay:0,3,1,3"])
def test_given_codes_are_followed_as_a_loop_without_cache_follows_them(pattern):
    model, given, seeds = tiny.language_model(pattern), tiny.conditions([4, 2]), [3, 4]
    known = tiny.codes(2, 6)
    wanted = loop(model, given, 10, known, noise(seeds, model.pattern.length(10), 4))
    drawn = draw_codes(
        Decoder(model), branches(given, ["text"], 3.0), [10, 10], seeds, Sampling(entries := 16), list(known)
    )
    assert torch.equal(torch.stack(drawn), wanted)
    assert torch.equal(wanted[..., :6], known)
    assert len(wanted[..., 6:].unique()) > entries // 2


def test_an_added_melody_goes_with_given_codes_and_stays_with_its_row():
    """The first row leaves in the middle; the others' melodies stay theirs."""
    model, seeds = tiny.language_model(added=("melody",)), [3, 4, 5]
    melody = torch.eye(12)[torch.randint(12, (3, 7), generator=torch.Generator().manual_seed(1))]
    given = Conditions({**tiny.conditions([4, 2, 3]).items, "melody": Condition(melody, melody.any(-1))})
    known = tiny.codes(3, 2)
    made = branches(given, ["text", "melody"], 3.0)
    frames = [4, 10, 9]
    drawn = draw_codes(Decoder(model), made, frames, seeds, Sampling(16), list(known))
    for row, (codes, count) in enumerate(zip(drawn, frames, strict=True)):
        own, uniform = given.select(torch.tensor([row])), noise(seeds[row : row + 1], model.pattern.length(count), 4)
        assert torch.equal(codes[None], loop(model, own, count, known[row : row + 1], uniform))


def test_rows_of_any_length_and_text_are_the_same_alone_bit_for_bit(model, fragile):
    options = {"ids": list("abcde"), "seed": SEEDS}
    together = model.generate_codes(TEXTS, DURATIONS, **options)
    assert [codes.shape[1] for codes in together] == [31, 5, 20, 12, 1]
    assert len(torch.cat(together, 1).unique()) == tiny.ENTRIES
    for place, name in enumerate("abcde"):
        (alone,) = model.generate_codes([TEXTS[place]], DURATIONS[place], ids=[name], seed=SEEDS[place])
        assert torch.equal(alone, together[place])
    turned = model.generate_codes(
        TEXTS[::-1], DURATIONS[::-1], ids=list("edcba"), seed=SEEDS[::-1], continuation=[None, None, AUDIO, None, None]
    )
    for place in (0, 1, 3, 4):
        assert torch.equal(turned[4 - place], together[place])
    (continued,) = model.generate_codes([TEXTS[2]], DURATIONS[2], ids=["c"], seed=SEEDS[2], continuation=AUDIO)
    assert torch.equal(turned[2], continued)


@pytest.mark.parametrize("places", [1, 2, 3, 7])
def test_what_a_row_hears_does_not_depend_on_the_others(places):
    """Of few places ``F.linear`` makes something else for eight rows than for one."""
    decoder, given = Decoder(tiny.language_model()), tiny.conditions([places] * 8)
    together = Request(decoder, Branches(given, (1.0,)), 8, 1).cross
    for row in range(8):
        alone = Request(decoder, Branches(given.select(torch.tensor([row])), (1.0,)), 1, 1).cross
        for one, other in zip(alone.memory, together.memory, strict=True):
            assert torch.equal(one[:, 0], other[:, row])


def test_audio_is_the_same_alone_bit_for_bit(model):
    together = model.generate(TEXTS, DURATIONS, ids=list("abcde"), seed=SEEDS)
    for place, name in enumerate("abcde"):
        (alone,) = model.generate([TEXTS[place]], DURATIONS[place], ids=[name], seed=SEEDS[place])
        assert alone.shape == (1, round(DURATIONS[place] * tiny.RATE))
        assert torch.equal(alone, together[place])


def test_a_gpu_decodes_and_reads_several_at_once(model, monkeypatch):
    """On a CPU in its place: the same but for rounding, in the order of the prompts."""
    options = {"ids": list("abcde"), "seed": SEEDS}
    lengths = [0.2, 0.05, 0.2, 0.2, 0.05]
    wanted, conditions = model.generate(TEXTS, lengths, **options), model.conditions(TEXTS)
    monkeypatch.setattr(MusicModel, "_at_once", 2)
    decoded, decode = [], model.codec.decode
    monkeypatch.setattr(model.codec, "decode", lambda codes: decoded.append(codes.shape) or decode(codes))
    made, together = model.generate(TEXTS, lengths, **options), model.conditions(TEXTS)
    assert sorted((shape[0], shape[2]) for shape in decoded) == [(1, 20), (2, 5), (2, 20)]
    for one, other in zip(made, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(together["text"].embeddings, conditions["text"].embeddings, atol=1e-5, rtol=1e-5)
    assert torch.equal(together["text"].mask, conditions["text"].mask)


def test_a_model_that_only_generates_keeps_its_weights_once(model):
    lm = copy.deepcopy(model.lm)
    once = MusicModel(lm, model.conditioners, model.codec, model.checksum, model.about, alone=True)
    for _ in range(2):
        for one, other in zip(once.generate(TEXTS[:3], 0.2), model.generate(TEXTS[:3], 0.2), strict=True):
            assert torch.equal(one, other)
    assert once.parameters == sum(parameter.numel() for parameter in model.lm.parameters())
    left = sum(parameter.numel() for parameter in lm.parameters())
    assert left < 0.7 * once.parameters or not torch.backends.mkldnn.is_available()


def test_each_prompt_may_have_a_seed_of_its_own(model):
    one, two = model.generate_codes(["piano", "piano"], 0.2, ids=["a", "a"], seed=[1, 2])
    assert not torch.equal(one, two)
    assert torch.equal(two, model.generate_codes(["piano"], 0.2, ids=["a"], seed=2)[0])


def test_a_longer_clip_begins_as_the_shorter_one(model):
    short, long = model.generate_codes(["piano", "piano"], [0.1, 0.3], ids=["a", "a"])
    # Of the shorter one's last frames, codes of later steps are missing when those of earlier codebooks' are drawn.
    assert torch.equal(long[:, :7], short[:, :7])


@pytest.mark.parametrize("prefix", [(), ("text",)])
def test_finished_rows_leave_the_batch(prefix):
    model = tiny.language_model(cross=() if prefix else ("text",), prefix=prefix)
    decoder, rows = Decoder(model), []
    heads = decoder.heads
    decoder.heads = lambda x: rows.append(len(x)) or heads(x)
    given = branches(tiny.conditions([4, 4, 4]), ["text"], 3.0)
    draw_codes(decoder, given, [2, 9, 4], [1, 2, 3], Sampling())
    # Steps are frames and three more of the delay; each sample has two rows.
    assert rows == [6] * 5 + [4] * 2 + [2] * 5


@pytest.mark.parametrize("prefix", [(), ("text",)])
def test_those_that_stay_are_not_changed_by_those_that_leave(prefix, fragile):
    """Rows that hear nothing stand last, and padding is hidden: whatever belongs to a row must stay with it."""
    decoder = Decoder(tiny.language_model(cross=() if prefix else ("text",), prefix=prefix))
    given, frames = tiny.conditions([4, 0, 2, 5]), [3, 20, 9, 14]
    asked = [branches(given, ["text"], 3.0, tiny.conditions([3])["text"])]
    asked += [branches(given, ["text"], guidance) for guidance in (3.0, 1.0)]
    for heard in asked:
        together = draw_codes(decoder, heard, frames, [1, 2, 3, 4], Sampling())
        count = len(frames)
        for item in range(count):
            rows = torch.tensor([item + branch * count for branch in range(len(heard.weights))])
            alone = Branches(heard.conditions.select(rows), heard.weights)
            assert torch.equal(draw_codes(decoder, alone, [frames[item]], [item + 1], Sampling())[0], together[item])


def test_rows_leave_recorded_steps_too(monkeypatch):
    """Steps of a fixed width, as on a GPU: what was recorded before must not be replayed after."""
    model, given = tiny.language_model(), tiny.conditions([4, 2, 5])
    asked = branches(given, ["text"], 3.0), [20, 4, 9], [1, 2, 3], Sampling(8), list(tiny.codes(3, 2))
    wanted = draw_codes(Decoder(model), *asked)
    stepped = []

    def replayed(step, places, bucket):
        recorded = [step.__self__.sequence]  # a graph writes where it was recorded

        def run(width):
            assert recorded[0] is step.__self__.sequence
            stepped.append(len(recorded[0]))
            step(min(-(-width // 8) * 8, places))

        return run

    monkeypatch.setattr(engine, "Request", partial(Request, exact=False))
    monkeypatch.setattr(engine, "Replayed", replayed)
    monkeypatch.setattr(engine, "_LEAVING", 8)
    drawn = draw_codes(Decoder(model), *asked)
    assert all(torch.equal(one, other) for one, other in zip(drawn, wanted, strict=True))
    assert stepped == [3] * 5 + [2] * 8 + [1] * 8


def test_audio_is_continued(model, tmp_path):
    soundfile.write(tmp_path / "a.wav", AUDIO[0].numpy(), tiny.RATE, subtype="FLOAT")
    known = model.codec.encode(AUDIO[None])[0]
    by_tensor, fresh = model.generate_codes(["piano"] * 2, 0.3, ids=["a", "a"], continuation=[AUDIO, None])
    assert torch.equal(by_tensor[:, :10], known)
    assert by_tensor.shape == fresh.shape == (4, 30)
    assert not torch.equal(by_tensor[:, 10:], fresh[:, 10:])
    (by_file,) = model.generate(["piano"], 0.3, ids=["a"], continuation=tmp_path / "a.wav")
    assert torch.equal(by_file, model.codec.decode(by_tensor[None])[0])
    # A frame that is begun is not filled up with silence, but drawn.
    (odd,) = model.generate_codes(["piano"], 0.3, ids=["a"], continuation=AUDIO[:, :-3])
    assert torch.equal(odd[:, :9], model.codec.encode(AUDIO[None, :, :72])[0])


def test_what_is_given_is_decoded_in_one_pass(model):
    seen = []
    model.generate_codes(["piano"], 0.3, continuation=AUDIO, progress=lambda *step: seen.append(step))
    assert seen == [(step, 23) for step in range(1, 24)]  # 20 frames are left, and 3 more steps of the delay


def test_more_prompts_than_memory_holds_are_split_and_it_is_said(model, monkeypatch):
    wanted = model.generate_codes(TEXTS, 0.2)
    heard = model.ask(TEXTS, 0.2).heard([None] * 5)
    needed = batches._item_bytes(model.lm, heard, model.lm.pattern.length(20))
    monkeypatch.setattr(batches, "free_memory", lambda device: int(needed * 2 / 0.8) + 1)
    with pytest.warns(UserWarning, match="5 samples at once would need .* GiB of .* drawn 2 at a time") as told:
        split = model.generate_codes(TEXTS, 0.2)
    assert len(told) == 1
    assert all(torch.equal(one, other) for one, other in zip(split, wanted, strict=True))
    monkeypatch.setattr(batches, "free_memory", lambda device: needed // 2)
    with pytest.raises(InputError, match="take a shorter window or a smaller model"):
        model.generate_codes(["piano"], 0.2)


def test_free_memory_is_the_containers_where_that_is_less(tmp_path):
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 100\n")
    assert batches._group_memory(str(tmp_path)) == 400
    (tmp_path / "memory.max").write_text("max\n")
    assert batches._group_memory(str(tmp_path)) is None
    (tmp_path / "meminfo").write_text("MemTotal:  9 kB\nMemAvailable:  3 kB\n")
    assert batches._machine_memory(str(tmp_path / "meminfo")) == 3072
    assert batches._machine_memory(str(tmp_path / "nothing")) is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"duration": 0.0}, r"0.0 s is shorter than one frame \(0.01 s\)"),
        ({"duration": [0.1, -3.0]}, "-3.0 s is shorter than one frame"),
        ({"duration": 1e9}, "give seconds, 3600 at most"),
        ({"duration": float("nan")}, "nan s cannot be drawn"),
        ({"duration": float("inf")}, "inf s cannot be drawn"),
        ({"duration": [0.1, 0.2, 0.3]}, "3 durations; give one, or one for each prompt"),
        ({"seed": [1, 2, 3]}, "3 seeds; give one"),
        ({"ids": ["a"]}, "1 ids for 2 prompts"),
        ({"duration": 0.1, "continuation": AUDIO}, "counts the audio that is continued, and that lasts 0.1 s; ask for"),
        ({"continuation": AUDIO[:, :5]}, "the audio to continue: the codec wants at least a frame"),
        ({"continuation": AUDIO[0]}, "the audio to continue: the codec wants audio"),
        ({"continuation": AUDIO * torch.nan}, "not finite"),
        ({"continuation": "nowhere.wav"}, "nowhere.wav: "),
        ({"continuation": [AUDIO] * 3}, "3 audios; give one"),
        ({"window": 0.01}, r"a window of 0.01 s cannot be drawn; give two frames \(0.02 s\)"),
        ({"window": 0.2, "stride": 0.2}, "a stride of 0.2 s does not fit windows of 0.2 s"),
        ({"stride": 0.0}, "a stride of 0 s does not fit"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(model, options, said):
    with pytest.raises(InputError, match=said) as raised:
        model.generate(["piano", "drums"], **options)
    assert "\n" not in str(raised.value)


def test_the_seed_of_the_first_window_is_the_samples(model):
    asked = model.ask(["piano"], 0.1, seed=7, ids=["a"])
    assert asked.seed(0, 0) == derived_seed(7, "a")
