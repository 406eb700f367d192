"""Stems kept for melodies, and the files that a separator is read from."""

import ast
import hashlib
import json
import pickle
import random
import sys
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from datamodules.errors import InputError
from datamodules.features import stems
from datamodules.features.stems import StemSeparator, load_separator

pytest.importorskip("demucs")

SOURCES = ["drums", "bass", "other", "vocals"]
SHAPE = {"sources": SOURCES, "channels": 8, "depth": 4, "t_layers": 1, "t_heads": 2, "nfft": 2048}


class Mixer(nn.Module):
    """A separator whose stems are the mix, each with a gain of its own and with its channels unlike."""

    gains = (1.0, 10.0, 0.25, 0.5)

    def __init__(self, samplerate=44_100, audio_channels=2):
        super().__init__()
        self.sources, self.samplerate, self.audio_channels, self.segment = SOURCES, samplerate, audio_channels, 0.5
        self.weight = nn.Parameter(torch.tensor(self.gains))
        self.heard = []

    def forward(self, mix):
        self.heard.append(mix)
        return self.weight[None, :, None, None] * mix[:, None]


@pytest.fixture(scope="module")
def network():
    from demucs.htdemucs import HTDemucs

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return HTDemucs(**SHAPE, samplerate=8_000, segment=Fraction(39, 50)).eval()


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.1


def tone(samples, rate, hertz=440.0):
    return torch.sin(2 * torch.pi * hertz * torch.arange(samples) / rate) * 0.3


# ---- separating ----------------------------------------------------------------------------------------------------
def test_vocals_and_other_are_kept_and_summed_at_the_rate_of_the_audio():
    wav = torch.stack([tone(30_001, 32_000), tone(30_001, 32_000, 1000)])[:, None]
    kept = StemSeparator(Mixer())(wav)
    assert kept.shape == (2, 1, 30_001)
    # Back and forth between the rates costs a tone nothing but its edges.
    torch.testing.assert_close(kept[..., 500:-500], 0.75 * wav[..., 500:-500], atol=2e-3, rtol=0)
    drums = StemSeparator(Mixer(), keep=["drums", "bass"])(wav)
    torch.testing.assert_close(drums, 11 / 0.75 * kept)


def test_stereo_is_heard_as_stereo_and_mixed_afterwards():
    wav = noise(1, 2, 9_000)
    model = Mixer()
    kept = StemSeparator(model, 44_100)(wav)
    torch.testing.assert_close(model.heard[0], wav)
    torch.testing.assert_close(kept, 0.75 * wav.mean(1, keepdim=True))
    mono, wide = Mixer(audio_channels=1), Mixer()
    StemSeparator(mono, 44_100)(wav)
    torch.testing.assert_close(mono.heard[0], wav.mean(1, keepdim=True))
    StemSeparator(wide, 44_100)(noise(1, 5, 9_000))
    torch.testing.assert_close(wide.heard[0], noise(1, 5, 9_000).mean(1, keepdim=True).expand(-1, 2, -1))


def test_the_stems_are_those_of_demucs(network):
    """An independent path: a loop over chunks of the whole recording, each weighed by a triangle."""
    wav = noise(2, 2, 14_000)
    size, step = int(0.78 * 8_000), int(0.75 * int(0.78 * 8_000))
    rise = torch.arange(1, size // 2 + 1)
    triangle = torch.cat([rise, rise.flip(0)]) / (size // 2)
    total, weights = torch.zeros(2, 4, 2, 14_000), torch.zeros(14_000)
    for start in range(0, 14_000, step):
        length = min(size, 14_000 - start)
        first = start - (size - length) // 2  # a chunk that is cut short has more of the past, and silence behind it
        padded = nn.functional.pad(wav, (0, size))[..., first : first + size].clone()
        with torch.no_grad():
            out = network(padded)[..., start - first : start - first + length]
        total[..., start : start + length] += triangle[:length] * out
        weights[start : start + length] += triangle[:length]
    wanted = (total / weights)[:, [3, 2]].sum(1).mean(1, keepdim=True)
    kept = StemSeparator(network, 8_000)(wav)
    torch.testing.assert_close(kept, wanted, atol=1e-6, rtol=1e-4)
    assert kept.std() > 1e-3


def test_a_clip_is_the_same_alone_and_in_a_batch(network):
    separate = StemSeparator(network, 8_000, batch_size=2)
    wav, lengths = noise(4, 1, 9_000), torch.tensor([9_000, 5_000, 0, 5_000])
    together = separate(wav, lengths)
    for row, length in enumerate(lengths.tolist()):
        assert (together[row, :, length:] == 0).all()
        if length:
            alone = separate(wav[row : row + 1, :, :length])
            torch.testing.assert_close(together[row : row + 1, :, :length], alone, atol=1e-6, rtol=1e-4)


def test_nothing_is_random_and_nothing_learns(network, monkeypatch):
    separate = StemSeparator(network, 8_000)
    wav = noise(1, 1, 8_000).requires_grad_()
    # As networks do that were trained with positions that begin anywhere.
    monkeypatch.setattr(network.crosstransformer, "sin_random_shift", 50)
    random.seed(3)
    before = random.getstate()
    kept = separate(wav)
    assert random.getstate() == before
    random.seed(4)
    assert torch.equal(kept, separate(wav))
    assert not kept.requires_grad
    assert not any(parameter.requires_grad for parameter in network.parameters())
    # A training step in half precision hears the same stems.
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(kept, separate(wav))
    assert separate(wav.detach().bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("samples", [1, 37, 700])
def test_short_and_silent_clips(network, samples):
    kept = StemSeparator(network, 32_000)(torch.zeros(1, 1, samples))
    assert kept.shape == (1, 1, samples)
    assert kept.isfinite().all()


def test_wrong_stems_and_shapes_are_refused():
    with pytest.raises(InputError, match=r"no stem piano.*'vocals'"):
        StemSeparator(Mixer(), keep=["vocals", "piano"])
    with pytest.raises(InputError, match="none given"):
        StemSeparator(Mixer(), keep=[])
    with pytest.raises(InputError, match=r"\[B, C, N\]"):
        StemSeparator(Mixer())(torch.zeros(1, 100))


# ---- files ---------------------------------------------------------------------------------------------------------
def package(network, **changed):
    state = {name: tensor.half() for name, tensor in network.state_dict().items()}
    kwargs = {**SHAPE, "samplerate": 8_000, "segment": Fraction(39, 50)}
    made = {"klass": type(network), "args": (), "kwargs": kwargs, "state": state, "training_args": {"lr": [3e-4, None]}}
    return {**made, **changed}


def save(network, path, **changed):
    torch.save(package(network, **changed), path)
    return path


def save_safe(network, path, **about):
    kwargs = {**SHAPE, "samplerate": 8_000, "segment": {"_type": "fraction", "numerator": 39, "denominator": 50}}
    made = {"klass": "demucs.htdemucs.HTDemucs", "args": "[]", "kwargs": json.dumps(kwargs), **about}
    save_file(package(network)["state"], path, {name: value for name, value in made.items() if value is not None})
    return path


def assert_same(separator, theirs):
    ours = separator.model
    assert (ours.sources, ours.samplerate, ours.segment) == (theirs.sources, theirs.samplerate, theirs.segment)
    assert not ours.training
    state = theirs.state_dict()
    assert list(ours.state_dict()) == list(state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in ours.state_dict().items())


@pytest.fixture
def caches(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    checkpoints = tmp_path / "torch" / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    return checkpoints


def test_a_th_file_is_read_as_demucs_reads_it(tmp_path, network):
    from demucs.pretrained import get_model

    torch.manual_seed(5)
    wanted = torch.rand(1)
    torch.manual_seed(5)
    path = save(network, tmp_path / "mine0001.th", kwargs=package(network)["kwargs"] | {"of_another_version": 3})
    with pytest.warns(UserWarning, match="Dropping"):
        theirs = get_model("mine0001", tmp_path)
    torch.manual_seed(5)
    assert_same(load_separator(str(path)), theirs)
    assert torch.rand(1) == wanted  # loading draws nothing of anyone's random numbers
    separator = load_separator("mine0001", tmp_path, 16_000, keep=["bass"])
    assert_same(separator, theirs)
    assert (separator.sample_rate, separator.keep) == (16_000, ("bass",))


def test_a_safetensors_file_is_read_as_demucs_reads_it(tmp_path, network):
    from demucs.hf import load_safetensors_model

    path = save_safe(network, tmp_path / "mine0001.safetensors")
    theirs = load_safetensors_model(path)
    assert_same(load_separator(str(path)), theirs)
    assert_same(load_separator("mine0001", tmp_path), theirs)


def test_the_published_one_is_found_where_it_was_fetched_to(caches, monkeypatch, network):
    # By the torch hub, as Demucs 4.0 and audiocraft do: its name holds its checksum.
    content = save(network, caches / "any.th").read_bytes()
    checksum = hashlib.sha256(content).hexdigest()[:8]
    monkeypatch.setattr(stems, "PUBLISHED", {"htdemucs": ("955717e8", checksum)})
    path = caches / f"955717e8-{checksum}.th"
    (caches / "any.th").rename(path)
    (caches / "955717e8-00000000.th").write_bytes(content)
    assert_same(load_separator(), load_separator(str(path)).model)
    path.write_bytes(content[:-1] + b"?")
    with pytest.raises(InputError, match=rf"955717e8-{checksum}.th: is damaged .*fetch it again"):
        load_separator()
    path.unlink()
    # By the Hugging Face hub, as Demucs 4.1 does.
    cache = caches.parents[2] / "hf" / "models--adefossez--HTDemucs"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text("abc")
    (cache / "snapshots" / "abc").mkdir(parents=True)
    save_safe(network, cache / "snapshots" / "abc" / "955717e8.safetensors")
    assert load_separator().model.samplerate == 8_000


def test_what_is_published_is_pinned():
    import demucs.pretrained

    listed = (demucs.pretrained.REMOTE_ROOT / "files.txt").read_text().split()
    for name, (signature, checksum) in stems.PUBLISHED.items():
        assert f"{signature}-{checksum}.th" in listed
        assert signature in (demucs.pretrained.REMOTE_ROOT / f"{name}.yaml").read_text()


def test_where_it_cannot_be_had_one_line_says_what_to_do(caches, monkeypatch):
    with pytest.raises(
        InputError, match=r"955717e8-8726e21a\.th.*hub cannot be asked; run `make weights`.*full mix"
    ) as e:
        load_separator()
    assert "\n" not in str(e.value)
    monkeypatch.setattr(stems, "hub_reachable", lambda: True)
    with pytest.raises(InputError, match=r"cannot be fetched from adefossez/HTDemucs .*full mix"):
        load_separator()
    with pytest.raises(InputError, match=r"no separator 'htdemucs_ft'; give htdemucs or"):
        load_separator("htdemucs_ft")
    with pytest.raises(InputError, match=r"nowhere\.th: there is no such file"):
        load_separator("nowhere.th")
    with pytest.raises(InputError, match=r"nowhere\.safetensors: there is no such file"):
        load_separator("nowhere.safetensors")
    with pytest.raises(InputError, match=r"has no 955717e8-8726e21a\.th"):
        load_separator("htdemucs", caches)
    monkeypatch.setitem(sys.modules, "demucs.htdemucs", None)
    with pytest.raises(InputError, match=r"not installed; pip install demucs, or hear"):
        load_separator("nowhere.th")


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_no_code_of_a_file_is_run(tmp_path, network):
    from demucs.hdemucs import HDemucs

    save(network, tmp_path / "torch.th", args=Evil(tmp_path / "ran"))
    (tmp_path / "pickle.th").write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    for name in ("torch", "pickle"):
        with pytest.raises(InputError, match=rf"{name}.th: ") as caught:
            load_separator(str(tmp_path / f"{name}.th"))
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "ran").exists()
    # Nor is a class made that a file names in the place of the arguments of another.
    save(network, tmp_path / "other.th", klass=HDemucs)
    with pytest.raises(InputError, match=r"other.th: holds demucs.hdemucs.HDemucs, and reading that would run code"):
        load_separator(str(tmp_path / "other.th"))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"klass": None}, "not a file of a Hybrid Transformer Demucs"),
        ({"kwargs": {"sources": SOURCES}}, "do not fit"),
        ({"kwargs": None}, "no plain weights"),
        ({"args": (1, 2, 3)}, "do not fit"),
        ({"state": {"__quantized": True}}, "quantised"),
        ({"state": {}}, "do not fit"),
    ],
)
def test_files_of_something_else_are_refused(tmp_path, network, changed, said):
    path = save(network, tmp_path / "broken.th", **changed)
    with pytest.raises(InputError, match=rf"broken.th: .*{said}") as caught:
        load_separator(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ({"klass": "os.system"}, "not a file of a Hybrid Transformer Demucs"),
        ({"kwargs": "{"}, "damaged"),
        ({"kwargs": '{"segment": {"_type": "fraction", "numerator": 1, "denominator": 0}}'}, "damaged"),
        ({"args": None}, "no plain weights"),
        ({"args": "[1]"}, "do not fit"),
    ],
)
def test_safetensors_of_something_else_are_refused(tmp_path, network, about, said):
    with pytest.raises(InputError, match=rf"broken.safetensors: .*{said}"):
        load_separator(str(save_safe(network, tmp_path / "broken.safetensors", **about)))
    (tmp_path / "cut.safetensors").write_bytes(b"12345")
    with pytest.raises(InputError, match="damaged"):
        load_separator(str(tmp_path / "cut.safetensors"))


def test_demucs_is_imported_only_by_those_who_separate():
    tree = ast.parse(Path(stems.__file__).read_text())
    heads = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert heads
    assert not any("demucs" in ast.unparse(node) for node in heads)
