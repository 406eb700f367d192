"""The decoding engine: its logits are the plain model's, row by row the same in every batch, in every precision."""

from dataclasses import replace

import pytest
import tiny
import torch

from datamodules.errors import InputError
from lightning_modules.checkpoints import load_model, save_model
from lightning_modules.codec.folder import save_codec
from lightning_modules.conditioning.conditions import Condition, Conditions
from lightning_modules.generation import packed
from lightning_modules.generation.decoder import Decoder, Request
from lightning_modules.generation.engine import forced_logits, generate_codes
from lightning_modules.generation.graphs import Replayed
from lightning_modules.generation.guidance import branches
from lightning_modules.generation.model import MusicModel
from lightning_modules.generation.sampling import Sampling, draw

KINDS = {
    "mono": {},
    "stereo": {"pattern": "stereo_partial_delay", "codebooks": 8},
    "zeros heard": {"mask_padded_text": False},
    "melody": {"cross": (), "prefix": ("melody", "text"), "mask_padded_text": False},
    "melody, padding hidden": {"cross": (), "prefix": ("melody", "text")},
    "text heard twice": {"prefix": ("text",)},
    "melody heard across": {"cross": ("text", "melody")},
    "melody added": {"added": ("melody",)},
    "quieter positions": {"position_scale": 0.05},
    "melody added to several steps": {"added": ("melody",), "pattern": "flatten"},
}
LENGTHS = [4, 0, 2]  # the second text is none: its rows hear nothing, and stand in the middle
FRAMES = 9


def case(kind):
    """A model of 3 layers, and conditions of 3 items."""
    model = tiny.language_model(**KINDS[kind], layers=3, dim=48, heads=3)
    return model, conditions(model)


def conditions(model):
    given = dict(tiny.conditions(LENGTHS).items)
    nulls = {}
    if "melody" in model.config.conditions:
        chroma = torch.eye(12)[torch.randint(12, (3, 5), generator=torch.Generator().manual_seed(2))]
        given["melody"] = Condition(chroma, torch.ones(3, 5, dtype=torch.bool))
        nulls["melody"] = torch.eye(12)[0]
    return Conditions(given, nulls)


@torch.no_grad()
def plain(model, given, codes, guidance):
    """What guidance makes of ``LanguageModel.logits``, one branch after the other."""
    names = model.config.conditions
    made = branches(given, names, guidance)
    count = len(codes)
    total = 0
    for place, weight in enumerate(made.weights):
        rows = torch.arange(place * count, (place + 1) * count)
        total = total + weight * model.logits(codes, made.conditions.select(rows))[0]
    return total


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_the_plain_models(kind):
    model, given = case(kind)
    codes = tiny.codes(3, FRAMES, model.config.codebooks)
    names = model.config.conditions
    scales = [1.0, 3.0] if len(names) == 1 else [1.0, 3.0, dict(zip(names, (2.0, 4.0), strict=True))]
    for guidance in scales:
        logits, mask = forced_logits(Decoder(model), branches(given, names, guidance), codes)
        assert torch.equal(mask, model.logits(codes, given)[1])
        wanted = plain(model, given, codes, guidance)
        assert wanted[mask].std() > 0.3
        torch.testing.assert_close(logits, wanted, atol=2e-5, rtol=0)
    # So that nothing above could pass with conditions left out.
    assert (plain(model, given, codes, 1.0) - plain(model, given.null(), codes, 1.0)).abs().max() > 0.05


@pytest.mark.parametrize("kind", ["mono", "melody", "melody, padding hidden", "melody added"])
def test_steps_of_fixed_width_are_those_of_exact_width(kind):
    """What a GPU's graphs replay, on a CPU: attention reads places that have not been decoded, and hides them."""
    model, given = case(kind)
    made, decoder, outputs = branches(given, model.config.conditions, 3.0), Decoder(model), []
    with torch.inference_mode():
        for exact in (True, False):
            request = Request(decoder, made, 3, FRAMES, exact=exact)
            for memory in request.memory:
                memory[:, :, :, request.prefix :] = 7.0
            columns = tiny.codes(3, FRAMES).unbind(2)
            widths = [request.prefix + step if exact else request.places for step in range(1, FRAMES + 1)]
            outputs.append(torch.stack([request.logits(*step) for step in zip(columns, widths, strict=True)]))
    torch.testing.assert_close(*outputs, atol=2e-5, rtol=0)


def test_one_graph_serves_a_bucket_of_widths(monkeypatch):
    """The order of first steps, recordings and replays, with a graph that only counts."""
    done = []

    class Graph:
        def replay(self):
            done.append("replayed")

    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)

    class Recording:
        def __init__(self, graph, pool, capture_error_mode):
            pass

        def __enter__(self):
            done.append("recorded")

        def __exit__(self, *error):
            done.pop()  # what is recorded is not done

    monkeypatch.setattr(torch.cuda, "graph", Recording)
    step = Replayed(done.append, 300)
    for width in (255, 256, 257, 258, 259, 260):
        step(width)
    assert done == [256, "recorded", "replayed", 300, "recorded", "replayed", "replayed", "replayed"]


@pytest.mark.parametrize(("inputs", "outputs"), [(4096, 1024), (256, 1024)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, "int8"], ids=str)
def test_a_row_is_the_same_in_every_batch_bit_for_bit(dtype, inputs, outputs):
    """Widths of real models, for which there are other kernels than for small ones; for the second, by rows, two."""
    linear = torch.nn.Linear(inputs, outputs, bias=False)
    if dtype != "int8":
        linear = linear.to(dtype)
    multiply = packed.product(linear, int8=dtype == "int8")
    with torch.inference_mode():
        x = torch.randn(32, inputs, generator=torch.Generator().manual_seed(0)).to(linear.weight.dtype)
        x[3] *= 100
        whole = multiply(x)
        wanted = x.float() @ linear.weight.float().T
        assert ((whole - wanted).std(1) / wanted.std(1)).max() < {torch.float32: 1e-6, "int8": 0.03}.get(dtype, 0.01)
        for count in (1, 2, 3, 4, 8, 16):
            for start in (0, 5, 16):
                assert torch.equal(multiply(x[start : start + count]), whole[start : start + count])


@pytest.mark.parametrize("int8", [False, True])
def test_samples_are_the_same_alone_and_in_a_batch(int8):
    model, given = case("mono")
    decoder, seeds = Decoder(model, int8=int8), [5, 6, 7]
    together = generate_codes(decoder, branches(given, ["text"], 3.0), 40, seeds, Sampling(8))
    for place in range(3):
        alone = branches(given.select(torch.tensor([place])), ["text"], 3.0)
        codes = generate_codes(decoder, alone, 40, seeds[place : place + 1], Sampling(8))
        assert torch.equal(codes[0], together[place])
    order = torch.tensor([2, 0, 1])
    turned = generate_codes(
        decoder, branches(given.select(order), ["text"], 3.0), 40, [seeds[place] for place in order], Sampling(8)
    )
    assert torch.equal(turned, together[order])


def test_greedy_codes_are_the_plain_models():
    model, given = case("mono")
    codes = generate_codes(Decoder(model), branches(given, ["text"], 3.0), 30, [0, 0, 0], Sampling(greedy=True))
    logits = plain(model, given, codes, 3.0)
    best = logits.topk(2, -1)
    mask = model.logits(codes, given)[1]
    clear = mask & (best.values[..., 0] - best.values[..., 1] > 1e-4)
    assert clear.float().mean() > 0.8
    assert torch.equal(best.indices[..., 0][clear], codes[clear])


@pytest.mark.parametrize(("precision", "bound"), [("bfloat16", 0.03), ("int8", 0.05)])
def test_low_precision_stays_near(precision, bound):
    """The deviation of the difference of guided logits, as a share of theirs: in the third layer of 384."""
    model = tiny.language_model(layers=3, dim=384, heads=6, entries=64)
    given, codes = conditions(model), tiny.codes(3, FRAMES, entries=64)
    wanted = plain(model, given, codes, 3.0)
    decoder = Decoder(model, int8=True) if precision == "int8" else Decoder(model.to(torch.bfloat16))
    logits, mask = forced_logits(decoder, branches(given, ["text"], 3.0), codes)
    assert logits.dtype == torch.float32
    share = float((logits - wanted)[mask].std() / wanted[mask].std())
    assert 1e-4 < share < bound


def test_a_model_that_has_learnt_is_laid_out_anew():
    lm = tiny.language_model()
    model = MusicModel(lm, tiny.conditioners(), tiny.codec(), "", {})
    first = model.decoder
    assert model.decoder is first
    with torch.no_grad():
        lm.heads.weight.add_(torch.randn_like(lm.heads.weight))
    assert model.decoder is not first
    (codes,) = model.generate_codes(["piano"], 0.1, greedy=True)
    logits = plain(lm, model.conditions(["piano"]), codes[None], 3.0)[0]
    assert torch.equal(logits.argmax(-1)[0], codes[0])  # the first codebook is in every step


def test_int8_by_load_model(tmp_path):
    lm = tiny.language_model(dim=64, heads=2)
    save_codec(tmp_path / "codec", tiny.codec())
    save_model(tmp_path / "model", lm, tiny.TEXT, tiny.conditioners(), tmp_path / "codec")
    model, exact = load_model(tmp_path / "model", quantize="int8"), load_model(tmp_path / "model")
    assert model.int8
    assert model.decoder.lm is model.lm
    codes, given = tiny.codes(1, 6), model.conditions(["piano"])
    assert torch.equal(model.lm.logits(codes, given)[0], exact.lm.logits(codes, given)[0])  # it alone stays as it is
    quantised, _ = forced_logits(model.decoder, branches(given, ["text"], 1.0), codes)
    exactly, _ = forced_logits(exact.decoder, branches(given, ["text"], 1.0), codes)
    assert 1e-4 < (quantised - exactly).abs().max() < 0.5
    with pytest.raises(InputError, match="quantize='int4'"):
        load_model(tmp_path / "model", quantize="int4")


def test_int8_is_refused_where_there_is_none(monkeypatch):
    with pytest.raises(InputError, match="for CPUs"):
        packed.require_int8(torch.device("cuda"))
    monkeypatch.setattr(type(torch.backends.quantized), "supported_engines", ["qnnpack"], raising=False)
    with pytest.raises(InputError, match="float32 or bfloat16"):
        packed.require_int8(torch.device("cpu"))


def test_top_p_is_the_smallest_set_of_that_probability():
    probabilities = torch.tensor([0.1, 0.4, 0.05, 0.25, 0.2])
    uniform = torch.linspace(0, 1 - 2**-24, 1001)[:, None]
    for share, kept in ((0.3, [1]), (0.41, [1, 3]), (0.64, [1, 3]), (0.86, [1, 3, 4, 0]), (1.0, [1, 3, 4, 0, 2])):
        codes = draw(probabilities.log().expand(1001, 1, 5), uniform, replace(Sampling(5), top_p=share))
        assert sorted(codes.unique().tolist()) == sorted(kept)
        expected = probabilities[kept] / probabilities[kept].sum()
        assert [(codes == entry).double().mean().item() for entry in kept] == pytest.approx(expected.tolist(), abs=2e-3)
    for share in (0.0, 1.5):
        with pytest.raises(InputError, match="top_p"):
            Sampling(top_p=share)
