"""CLAP's embeddings beside those of transformers and of laion-clap's own network."""

import copy
import importlib
import sys
import types
import warnings
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from tokenizers.pre_tokenizers import ByteLevel
from torch import nn
from torch.nn.functional import normalize
from transformers import (
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    ClapProcessor,
    RobertaConfig,
    RobertaModel,
    RobertaTokenizer,
    T5Config,
)

from datamodules.errors import InputError
from datamodules.features import clap as module
from datamodules.features.clap import Clap, load_clap
from datamodules.features.clap_laion import read_laion_clap

RATE = 48_000
TEXTS = ["calm piano", "", "a fast banjo tune with fiddle, 120 bpm"]
AUDIO = {
    "patch_embeds_hidden_size": 8,
    "hidden_size": 64,
    "depths": [1, 2, 1, 1],
    "num_attention_heads": [1, 1, 2, 2],
}
TEXT = {
    "vocab_size": 261,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 90,
}


def byte_tokenizer(tokens=None):
    """RoBERTa's kind, with a token for every byte."""
    alphabet = sorted(ByteLevel.alphabet()) if tokens is None else tokens
    names = ["<s>", "<pad>", "</s>", "<unk>", *alphabet, "<mask>"]
    return RobertaTokenizer(vocab={name: place for place, name in enumerate(names)}, merges=[])


@torch.no_grad()
def alive(network, seed=0):
    """Norms, biases and statistics away from the 1 and 0 that hide a mistake, and embeddings that differ."""
    noise = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        if "_extractor" not in name:
            wide = 0.3 if parameter.dim() < 2 or "bias_table" in name else 1.5 * parameter.shape[-1] ** -0.5
            parameter += wide * torch.randn(parameter.shape, generator=noise)
    for name, buffer in network.named_buffers():
        if "running_mean" in name:
            buffer.copy_(-40 + 10 * torch.randn(buffer.shape, generator=noise))
        if "running_var" in name:
            buffer.copy_(300 + 100 * torch.rand(buffer.shape, generator=noise))
    return network.eval()


@pytest.fixture(scope="module")
def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return alive(ClapModel(ClapConfig(text_config=TEXT, audio_config=AUDIO, projection_dim=16)))


@pytest.fixture(scope="module")
def extractor():
    return ClapFeatureExtractor(frequency_min=50, truncation="rand_trunc")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, model, extractor):
    folder = tmp_path_factory.mktemp("clap")
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clap(folder):
    return load_clap(folder)


def sounds(*seconds):
    """Clips unlike each other in pitch, noise and loudness."""
    noise = torch.Generator().manual_seed(len(seconds))
    clips = []
    for number, length in enumerate(seconds):
        time = torch.arange(round(length * RATE)) / RATE
        tone = torch.sin(2 * torch.pi * 220 * (number + 1) * time * (1 + 0.05 * time))
        clips.append(0.3 * tone + 0.02 * number * torch.randn(len(time), generator=noise))
    return clips


def padded(clips):
    lengths = torch.tensor([len(clip) for clip in clips])
    return nn.utils.rnn.pad_sequence(clips, batch_first=True, padding_value=7.0), lengths


# ---- beside transformers -------------------------------------------------------------------------------------------
def test_embeddings_of_up_to_ten_seconds_are_those_of_transformers(clap, model, extractor):
    clips = sounds(10, 3.3, 0.5, 7)
    processor = ClapProcessor(extractor, byte_tokenizer())
    given = processor(
        text=TEXTS, audio=[clip.numpy() for clip in clips], sampling_rate=RATE, return_tensors="pt", padding=True
    )
    with torch.no_grad():
        wanted = model(**given)
    wav, lengths = padded(clips)
    audio, text = clap.audio(wav, lengths), clap.text(TEXTS)
    torch.testing.assert_close(audio, wanted.audio_embeds, atol=1e-5, rtol=0)
    torch.testing.assert_close(text, wanted.text_embeds, atol=1e-5, rtol=0)
    assert (clap.sample_rate, clap.dim) == (RATE, 16)
    # The comparison could fail: the embeddings differ from clip to clip and from text to text.
    assert (normalize(audio, dim=-1) @ audio.T - torch.eye(4)).max() < 0.99
    assert (text @ text.T - torch.eye(3)).max() < 0.99


def test_the_other_mel_filters_are_used_where_the_files_say_so(model):
    extractor = ClapFeatureExtractor(truncation="fusion")
    clip = sounds(10)[0]
    with torch.no_grad():
        picture = torch.from_numpy(extractor._np_extract_fbank_features(clip.double().numpy(), extractor.mel_filters))
        wanted = model.get_audio_features(picture[None, None].float()).pooler_output
    heard = Clap(model, byte_tokenizer(), extractor).audio(clip[None])
    torch.testing.assert_close(heard, wanted, atol=1e-5, rtol=0)
    assert (
        heard - Clap(model, byte_tokenizer(), ClapFeatureExtractor(truncation="rand_trunc")).audio(clip[None])
    ).norm() > 1e-2


# ---- windows -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("seconds", "window", "hop", "starts"),
    [
        (25.0, 10.0, 10.0, [0, 10, 15]),
        (20.0, 10.0, 10.0, [0, 10]),
        (13.5, 10.0, 1.0, [0, 1, 2, 3, 3.5]),
        (10.0, 10.0, 1.0, [0]),
        (7.0, 3.0, 2.5, [0, 2.5, 4]),
        (2.0, 3.0, 1.0, [0]),
    ],
)
def test_windows_are_averaged(folder, clap, seconds, window, hop, starts):
    clip = sounds(1, seconds)[1]
    heard = load_clap(folder, window=window, hop=hop).audio(clip[None])
    alone = [clap.audio(clip[None, round(s * RATE) : round((s + window) * RATE)]) for s in starts]
    torch.testing.assert_close(heard, normalize(torch.stack(alone).mean(0), dim=-1), atol=1e-5, rtol=0)
    torch.testing.assert_close(heard.norm(dim=-1), torch.ones(1))


@pytest.mark.parametrize(("window", "hop"), [(10.5, 1.0), (0.0, 1.0), (10.0, 0.0), (-1.0, 1.0)])
def test_windows_that_cannot_be_are_refused(folder, window, hop):
    with pytest.raises(InputError, match="give up to 10 s"):
        load_clap(folder, window=window, hop=hop)


def test_a_clip_is_the_same_alone_and_in_a_batch(model, extractor):
    clap = Clap(model, byte_tokenizer(), extractor, hop=5.0, batch_size=2)
    clips = sounds(11, 2.5, 16.2)
    wav, lengths = padded(clips)
    together = clap.audio(wav, lengths)
    torch.testing.assert_close(together, torch.cat([clap.audio(clip[None]) for clip in clips]), atol=1e-5, rtol=0)
    alone = torch.cat([clap.text([text]) for text in TEXTS])
    torch.testing.assert_close(clap.text(TEXTS), alone, atol=1e-5, rtol=0)
    # Nothing is drawn: again is the same to the bit.
    assert torch.equal(clap.audio(wav, lengths), together)
    # Channels are mixed, whatever the floats.
    stereo = torch.stack([2 * clips[1], torch.zeros_like(clips[1])])[None]
    torch.testing.assert_close(clap.audio(stereo.double()), together[1:2], atol=1e-5, rtol=0)


def test_nothing_learns_and_half_precision_around_it_changes_nothing(clap):
    clip = sounds(1)[0][None].requires_grad_()
    audio, text = clap.audio(clip), clap.text(TEXTS)
    assert not audio.requires_grad
    assert not text.requires_grad
    assert not any(parameter.requires_grad for parameter in clap.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(clap.audio(clip), audio)
        assert torch.equal(clap.text(TEXTS), text)
    # Cast along with a model that it is part of, it still hears and reads, as well as such numbers can.
    cast = copy.deepcopy(clap).bfloat16()
    assert (cast.audio(clip) * audio).sum(-1).min() > 0.99
    assert (cast.text(TEXTS) * text).sum(-1).min() > 0.99
    # As part of a module in training it stays as it is, and its embeddings may be trained with.
    nn.ModuleList([clap]).train()
    assert not any(part.training for part in clap.modules())
    linear = nn.Linear(16, 1)
    linear(clap.text(TEXTS)).sum().backward()
    assert linear.weight.grad is not None


# ---- edges ---------------------------------------------------------------------------------------------------------
def test_short_silent_and_broken_clips(clap):
    silent = clap.audio(torch.zeros(1, RATE))
    assert silent.isfinite().all()
    torch.testing.assert_close(silent.norm(dim=-1), torch.ones(1))
    assert clap.audio(sounds(1)[0][None, : clap.shortest]).isfinite().all()
    wav, _ = padded(sounds(1, 1))
    with pytest.raises(InputError, match=r"clip 1 of the batch has 1023 samples .*at least 1024"):
        clap.audio(wav, torch.tensor([RATE, 1023]))
    with pytest.raises(InputError, match=r"clip 0 of the batch has 0 samples"):
        clap.audio(torch.zeros(1, 2, 0))
    for bad in (float("nan"), float("inf")):
        broken = wav.clone()
        broken[1, 2000] = bad
        with pytest.raises(InputError, match=r"clip 1 of the batch holds samples that are not finite"):
            clap.audio(broken)
        # Not where only the padding is.
        assert clap.audio(broken, torch.tensor([RATE, 1999])).isfinite().all()
    with pytest.raises(InputError, match=r"\[B, N\] or \[B, C, N\]"):
        clap.audio(torch.zeros(RATE))
    assert clap.audio(torch.zeros(0, RATE)).shape == (0, 16)


def test_long_texts_are_cut_with_one_warning(folder, model):
    clap = load_clap(folder)
    long = "x" * 75  # with the two at its ends 77 tokens
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wanted = clap.text([long])
    with pytest.warns(UserWarning, match="a text has 102 tokens; CLAP reads the first 77"):
        cut = clap.text([long + "y" * 25, "calm piano"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(clap.text([long + "z" * 25]), wanted)
    torch.testing.assert_close(cut[:1], wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(cut[1:], clap.text(["calm piano"]), atol=1e-5, rtol=0)
    assert clap.text([]).shape == (0, 16)


def test_the_checksum_is_that_of_the_weights(clap, folder, model, extractor):
    assert clap.checksum == load_clap(folder).checksum
    assert len(clap.checksum) == 64
    other = ClapModel(model.config)
    other.load_state_dict(model.state_dict())
    other.text_projection.linear2.bias.data[3] += 1e-3
    assert Clap(other, byte_tokenizer(), extractor).checksum != clap.checksum


# ---- files ---------------------------------------------------------------------------------------------------------
def without(folder, tmp_path, *names):
    for path in folder.iterdir():
        if path.name not in names:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def one_line(raised):
    assert "\n" not in str(raised.value)


@pytest.fixture
def offline(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("offline")
def test_what_is_not_there_is_said_in_one_line(folder, tmp_path, monkeypatch):
    for name in ("laion/larger_clap_music", "nowhere"):
        with pytest.raises(InputError, match=rf"CLAP model {name} is not on this machine .*`make weights`") as raised:
            load_clap(name)
        one_line(raised)
    with pytest.raises(InputError, match=r"nowhere.pt: there is no such file"):
        load_clap("nowhere.pt")
    with pytest.raises(InputError, match=r"tokenizer of CLAP, roberta-base is not on this machine") as raised:
        load_clap(folder, "roberta-base")
    one_line(raised)
    # Where there is a network, the hub is asked for what the machine has not got, and for nothing else.
    asked = []

    def refused(name, **options):
        asked.append((name, options["local_files_only"]))
        raise OSError("404\n\nnot found")

    monkeypatch.setattr("datamodules.hub.hub_reachable", lambda: True)
    monkeypatch.setattr(module.AutoConfig, "from_pretrained", refused)
    with pytest.raises(InputError, match=r"some/clap .*cannot be fetched"):
        load_clap("some/clap")
    assert asked == [("some/clap", True), ("some/clap", False)]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("model.safetensors", "CLAP model .*missing or damaged"),
        ("config.json", "CLAP model .*missing or damaged"),
        ("preprocessor_config.json", "CLAP model .*missing or damaged"),
        # transformers makes a tokenizer of five tokens of nothing
        ("tokenizer.json", r"tokenizer of CLAP, .*missing or damaged \(found: 5 tokens, not 261\)"),
    ],
)
@pytest.mark.usefixtures("offline")
def test_a_folder_that_lacks_a_file_is_refused(folder, tmp_path, name, said):
    (tmp_path / "part").mkdir()
    with pytest.raises(InputError, match=said) as raised:
        load_clap(without(folder, tmp_path / "part", name))
    one_line(raised)
    if name != "tokenizer.json":
        (tmp_path / "part" / name).write_bytes(b"{")
        with pytest.raises(InputError, match=said):
            load_clap(tmp_path / "part")


@pytest.mark.parametrize("change", ["fewer", "more", "of another size"])
def test_a_tokenizer_that_is_not_the_models_is_refused(folder, tmp_path, change, monkeypatch):
    tokens = [f"t{number}" for number in range({"fewer": 40, "more": 300, "of another size": 256}[change])]
    byte_tokenizer(tokens).save_pretrained(tmp_path)
    if change == "of another size":  # RoBERTa's must be whole; of others some leave rows of their table unused
        load_clap(folder, tmp_path)
        monkeypatch.setattr(module, "_ROBERTA_TOKENS", 261)
        byte_tokenizer(tokens[:-1]).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"tokenizer of CLAP, .*found: \d+ tokens, not 261"):
        load_clap(folder, tmp_path)


@pytest.mark.usefixtures("offline")
def test_other_models_and_parts_of_models_are_refused(folder, tmp_path, model, extractor):
    T5Config().save_pretrained(tmp_path / "t5")
    with pytest.raises(InputError, match=r"is a model of type t5, not CLAP"):
        load_clap(tmp_path / "t5")
    whole = model.state_dict()
    part = {name: tensor for name, tensor in whole.items() if "text_projection" not in name}
    (tmp_path / "part").mkdir()
    without(folder, tmp_path / "part", "model.safetensors")
    model.save_pretrained(tmp_path / "part", state_dict=part)
    with pytest.raises(InputError, match=r"4 tensors of CLAP are missing"):
        load_clap(tmp_path / "part")
    config = ClapConfig(text_config=TEXT, audio_config={**AUDIO, "enable_fusion": True}, projection_dim=16)
    with pytest.raises(InputError, match=r"fusion, which hears random crops; give one without: laion/"):
        Clap(ClapModel(config), byte_tokenizer(), extractor)


# ---- checkpoints of laion-clap -------------------------------------------------------------------------------------
class Theirs(nn.Module):
    """laion-clap's own ears and projections around a small RoBERTa, as its CLAP puts them together.

    The package itself is not imported: that would ask the network.
    """

    def __init__(self, htsat):
        super().__init__()
        settings = types.SimpleNamespace(
            mel_bins=64, window_size=1024, hop_size=480, sample_rate=RATE, fmin=50, fmax=14_000, class_num=5
        )
        self.audio_branch = htsat.HTSAT_Swin_Transformer(
            num_classes=5, embed_dim=8, depths=[1, 2, 1, 1], num_heads=[1, 1, 2, 2], config=settings
        )
        shape = {"vocab_size": 261, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 1}
        config = RobertaConfig(
            **shape, intermediate_size=96, max_position_embeddings=90, type_vocab_size=1, layer_norm_eps=1e-5
        )
        self.text_branch = RobertaModel(config)
        for name in ("audio", "text"):
            projection = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 16))
            setattr(self, f"{name}_projection", projection)
            setattr(self, f"{name}_transform", nn.Sequential(nn.Linear(16, 16)))
        self.logit_scale_a = nn.Parameter(torch.tensor(2.5))
        self.logit_scale_t = nn.Parameter(torch.tensor(2.6))

    @torch.no_grad()
    def audio(self, wav):
        return normalize(self.audio_projection(self.audio_branch({"waveform": wav}, device="cpu")["embedding"]), dim=-1)

    @torch.no_grad()
    def text(self, texts):
        tokens = byte_tokenizer()(texts, padding="max_length", truncation=True, max_length=77, return_tensors="pt")
        return normalize(self.text_projection(self.text_branch(**tokens).pooler_output), dim=-1)


@pytest.fixture(scope="module")
def theirs():
    spec = find_spec("laion_clap")
    if spec is None:
        pytest.skip("laion-clap is not installed")
    package = types.ModuleType("laion_networks")
    package.__path__ = [f"{spec.submodule_search_locations[0]}/clap_module"]
    sys.modules["laion_networks"] = package
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return alive(Theirs(importlib.import_module("laion_networks.htsat")))


def checkpoint(theirs, path, **more):
    """As their training writes it: wrapped, with what old versions of transformers added, and numpy's numbers."""
    state = {f"module.{name}": tensor for name, tensor in theirs.state_dict().items()}
    state["module.text_branch.embeddings.position_ids"] = torch.arange(90)[None]
    optimizer = {"param_groups": [{"lr": np.float64(1e-4), "amsgrad": np.bool_(False), "n": np.int64(3)}]}
    torch.save({"epoch": 15, "name": "music", "state_dict": {**state, **more}, "optimizer": optimizer}, path)
    return path


@pytest.fixture
def words(tmp_path):
    byte_tokenizer().save_pretrained(tmp_path / "words")
    return tmp_path / "words"


@pytest.mark.filterwarnings("ignore:.*meshgrid")
def test_a_checkpoint_of_laion_clap_has_the_embeddings_of_its_network(theirs, words, tmp_path):
    clap = load_clap(checkpoint(theirs, tmp_path / "music.pt"), words)
    clips = torch.stack(sounds(10, 10))
    heard, read = clap.audio(clips), clap.text(TEXTS)
    torch.testing.assert_close(heard, theirs.audio(clips), atol=1e-5, rtol=0)
    torch.testing.assert_close(read, theirs.text(TEXTS), atol=1e-5, rtol=0)
    assert (heard[0] - heard[1]).norm() > 0.05
    assert (read[0] - read[1]).norm() > 0.05
    # A plain state_dict is the same, and the file may go once it is read.
    torch.save(theirs.state_dict(), tmp_path / "plain.pt")
    plain = load_clap(tmp_path / "plain.pt", words)
    (tmp_path / "plain.pt").write_bytes(bytes((tmp_path / "plain.pt").stat().st_size))
    assert plain.checksum == clap.checksum
    assert torch.equal(plain.text(TEXTS), read)
    # Written in transformers' layout it is what it was.
    clap.model.save_pretrained(tmp_path / "hf")
    read_laion_clap(tmp_path / "music.pt")[1].save_pretrained(tmp_path / "hf")
    again = load_clap(tmp_path / "hf", words)
    assert again.checksum == clap.checksum
    assert torch.equal(again.audio(clips), heard)


@pytest.mark.usefixtures("offline")
def test_checkpoints_that_are_no_clap_of_that_kind_are_refused(theirs, words, tmp_path):
    path = checkpoint(theirs, tmp_path / "fusion.pt", **{"audio_branch.patch_embed.fusion_model.x": torch.zeros(1)})
    with pytest.raises(InputError, match=r"fusion.pt: a CLAP with fusion.* music_audioset_epoch_15_esc_90.14.pt"):
        load_clap(path, words)
    state = theirs.state_dict()
    cases = {
        "lacking": {name: tensor for name, tensor in state.items() if "layers.1.blocks.1.norm2" not in name},
        "stages": {name: tensor for name, tensor in state.items() if "layers.1." not in name},
        "unknown": {**state, "audio_branch.conv.weight": torch.zeros(1)},
        "pann": {name: tensor for name, tensor in state.items() if "audio_branch" not in name},
        "empty": {},
        "list": [torch.zeros(3)],
        "odd": {"state_dict": 3, 4: torch.zeros(1)},
    }
    for name, content in cases.items():
        torch.save(content, tmp_path / f"{name}.pt")
        with pytest.raises(InputError, match=rf"{name}.pt: no CLAP of laion-clap with HTS-AT and RoBERTa") as raised:
            load_clap(tmp_path / f"{name}.pt", words)
        one_line(raised)
    (tmp_path / "cut.pt").write_bytes(path.read_bytes()[:5000])
    with pytest.raises(InputError, match=r"cut.pt: is damaged"):
        load_clap(tmp_path / "cut.pt", words)
    with pytest.raises(InputError, match=r"tokenizer of CLAP, roberta-base is not on this machine"):
        load_clap(checkpoint(theirs, tmp_path / "music.pt"))


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_no_code_of_a_checkpoint_is_run(tmp_path, words):
    torch.save({"state_dict": {}, "name": Evil(tmp_path / "ran")}, tmp_path / "evil.pt")
    with pytest.raises(InputError, match=r"evil.pt: holds \S*open, and reading that would run code") as raised:
        load_clap(tmp_path / "evil.pt", words)
    one_line(raised)
    assert not (tmp_path / "ran").exists()
