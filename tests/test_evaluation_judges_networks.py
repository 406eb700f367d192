"""The published judges beside the networks that they stand for; all weights are random."""

import importlib
import time
import warnings

import judge_weights as made
import numpy as np
import pytest
import torch
from torch.nn.functional import conv2d, linear, max_pool2d, normalize, relu
from torch.nn.utils.rnn import pad_sequence
from transformers import EncodecModel, T5Config
from transformers.audio_utils import mel_filter_bank

from datamodules.errors import InputError
from datamodules.features.clap import load_clap
from evaluation.judges import Judge, TextJudge, offers, resolve_judge
from evaluation.judges.clap import load_clap_judge
from evaluation.judges.pann import Cnn14
from evaluation.judges.vggish import VGGish

KINDS = {
    "encodec": (made.encodec_folder, ("embeddings",)),
    "clap": (made.clap_folder, ("embeddings", "text")),
    "passt": (made.passt_file, ("embeddings", "logits")),
    "vggish": (made.vggish_file, ("embeddings",)),
    "pann": (made.pann_file, ("embeddings", "logits")),
}
TEXTS = ["calm piano", "", "a fast banjo tune"]


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("judges")
    return {kind: write(folder / f"{kind}.pt") for kind, (write, _) in KINDS.items()}


@pytest.fixture(scope="module")
def judges(sources):
    return {kind: resolve_judge(f"{kind}:{source}") for kind, source in sources.items()}


@pytest.fixture(params=KINDS)
def judge(request, judges):
    return judges[request.param]


def sounds(rate, *seconds):
    """Clips unlike each other in pitch, noise and loudness."""
    noise = torch.Generator().manual_seed(len(seconds))
    clips = []
    for number, length in enumerate(seconds):
        clock = torch.arange(round(length * rate)) / rate
        tone = torch.sin(2 * torch.pi * 220 * (number + 1) * clock * (1 + 0.05 * clock))
        clips.append(0.3 * tone + 0.05 * (number + 1) * torch.randn(len(clock), generator=noise))
    return clips


def hear(judge, clips, padding=0.0):
    lengths = torch.tensor([len(clip) for clip in clips])
    return judge.embed_audio(pad_sequence(clips, batch_first=True, padding_value=padding)[:, None], lengths)


# ---- all of them ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
def test_they_keep_the_contract_and_say_what_they_offer(kind, judges):
    judge, wanted = judges[kind], KINDS[kind][1]
    assert isinstance(judge, Judge)
    assert offers(judge) == wanted
    assert judge.name.split(":")[0] == kind
    assert len(judge.checksum) == 64
    heard = hear(judge, sounds(judge.sample_rate, 1, 2))
    assert heard.embeddings.dim() == 3
    assert heard.mask.any(1).all()
    assert not heard.embeddings[~heard.mask].any()
    assert (heard.logits is None) == ("logits" not in wanted)
    if heard.logits is not None:
        assert heard.logits.shape == (2, len(judge.labels))
    assert isinstance(judge, TextJudge) == ("text" in wanted)


@pytest.mark.parametrize("padding", [0.0, 9.0, float("nan")])
def test_padding_and_neighbours_never_count(judge, padding):
    longer = 10.5 if judge.name.startswith(("passt", "pann")) else 2.2
    clips = sounds(judge.sample_rate, 1, 1, longer)
    together = hear(judge, clips, padding)
    for row, clip in enumerate(clips):
        alone = hear(judge, [clip])
        torch.testing.assert_close(together.windows()[row], alone.windows()[0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(together.clips()[row], alone.clips()[0], atol=1e-4, rtol=1e-4)
        if together.logits is not None:
            torch.testing.assert_close(together.logits[row], alone.logits[0], atol=1e-4, rtol=1e-4)
    # They could differ: no clip has the embedding of another.
    means = together.clips()
    assert (torch.pdist(means) > 0.003 * means.norm(dim=-1).max()).all()
    assert torch.equal(hear(judge, clips, padding).embeddings, together.embeddings)


def test_many_clips_are_heard_in_batches(judge, monkeypatch):
    clips = sounds(judge.sample_rate, 1, 1, 1, 1, 1)
    together = hear(judge, clips)
    monkeypatch.setattr(type(judge), "seconds_at_once", 2.0)
    sizes, hear_some = [], judge.hear
    monkeypatch.setattr(judge, "hear", lambda pieces: (sizes.append(len(pieces)), hear_some(pieces))[1])
    torch.testing.assert_close(hear(judge, clips).embeddings, together.embeddings, atol=1e-4, rtol=1e-4)
    assert len(sizes) == 3


def test_clips_that_cannot_be_judged_are_refused(judge):
    rate = judge.sample_rate
    assert hear(judge, [sounds(rate, 2)[0][: judge.shortest]]).mask.any()
    with pytest.raises(
        InputError, match=rf"clip 1 .* too short to judge with {judge.name} \(at least {judge.shortest}"
    ):
        hear(judge, [torch.zeros(rate), torch.zeros(judge.shortest - 1)])
    with pytest.raises(InputError, match=r"\[B, 1, N\].* mono"):
        judge.embed_audio(torch.zeros(1, 2, rate), torch.tensor([rate]))
    broken = torch.zeros(rate)
    broken[100] = float("inf")
    with pytest.raises(InputError, match="clip 1 of the batch holds samples that are not finite"):
        hear(judge, [torch.zeros(rate), broken])
    assert hear(judge, [torch.zeros(rate)]).embeddings.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_are_not_numbers_are_an_error(kind, sources):
    judge = resolve_judge(f"{kind}:{sources[kind]}")
    for parameter in judge.parameters():
        parameter.fill_(float("nan"))
    with pytest.raises(
        InputError, match=rf"judge {kind}\S*: the embeddings of clip 0 of the batch are not finite"
    ) as no:
        hear(judge, sounds(judge.sample_rate, 1))
    assert "\n" not in str(no.value)
    if isinstance(judge, TextJudge):
        with pytest.raises(InputError, match=r"the embeddings of caption 0"):
            judge.embed_text(["piano"])


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_drawn_printed_warned_of_or_learned(kind, sources, capfd):
    before = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        judge = resolve_judge(f"{kind}:{sources[kind]}")
        heard = hear(judge, sounds(judge.sample_rate, 1))
        judge.train()
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(hear(judge, sounds(judge.sample_rate, 1)).embeddings, heard.embeddings)
    assert torch.equal(torch.get_rng_state(), before)
    assert capfd.readouterr() == ("", "")
    assert not any(part.training for part in judge.modules())
    assert not any(parameter.requires_grad for parameter in judge.parameters())
    assert judge.checksum == resolve_judge(f"{kind}:{sources[kind]}").checksum


# ---- EnCodec -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("channels", [1, 2])
def test_encodec_gives_every_frame_before_the_quantizer(tmp_path, channels):
    folder = made.encodec_folder(tmp_path / "codec", channels)
    judge, model = resolve_judge(f"encodec:{folder}"), EncodecModel.from_pretrained(folder).eval()
    assert (judge.name, judge.sample_rate, judge.hop, judge.window) == (
        "encodec:codec",
        24_000,
        40 / 24_000,
        40 / 24_000,
    )
    clips = sounds(24_000, 0.7, 1.3, 0.0017)
    heard = hear(judge, clips)
    assert heard.mask.sum(1).tolist() == [-(-len(clip) // 40) for clip in clips]
    for clip, frames in zip(clips, heard.windows(), strict=True):
        with torch.no_grad():
            wanted = model.encoder(clip.repeat(1, channels, 1))[0].T
        torch.testing.assert_close(frames, wanted, atol=1e-5, rtol=1e-4)
    assert heard.windows()[0].std(0).median() > 0.01


def test_folders_that_are_no_encodec_are_refused(tmp_path):
    made.encodec_folder(tmp_path / "part")
    (tmp_path / "part" / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"EnCodec model .*missing or damaged"):
        resolve_judge(f"encodec:{tmp_path / 'part'}")
    model = EncodecModel.from_pretrained(made.encodec_folder(tmp_path / "half"))
    kept = {name: tensor for name, tensor in model.state_dict().items() if "encoder.layers.0." not in name}
    model.save_pretrained(tmp_path / "half", state_dict=kept)
    with pytest.raises(InputError, match=r"3 tensors of EnCodec are missing"):
        resolve_judge(f"encodec:{tmp_path / 'half'}")
    T5Config().save_pretrained(tmp_path / "t5")
    with pytest.raises(InputError, match=r"is a model of type t5, not EnCodec"):
        resolve_judge(f"encodec:{tmp_path / 't5'}")
    (tmp_path / "t5" / "config.yaml").write_text("kind: codec\n")
    with pytest.raises(InputError, match=r"mgl convert .*t5 OUT --to hf"):
        resolve_judge(f"encodec:{tmp_path / 't5'}")


# ---- CLAP ----------------------------------------------------------------------------------------------------------
def test_clap_hears_ten_seconds_at_a_time_and_reads(sources):
    judge, clap = load_clap_judge(sources["clap"]), load_clap(sources["clap"])
    assert (judge.name, judge.sample_rate, judge.window, judge.hop) == ("clap:clap.pt", 48_000, 10, 10)
    assert judge.checksum == clap.checksum
    clips = sounds(48_000, 3, 13.5)
    heard = hear(judge, clips)
    assert heard.mask.tolist() == [[True, False], [True, True]]
    windows = [clips[0], clips[1][: 10 * 48_000], clips[1][-10 * 48_000 :]]
    wanted = torch.cat([clap.audio(window[None]) for window in windows])
    torch.testing.assert_close(heard.embeddings[heard.mask], wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(normalize(heard.clips(), dim=-1)[1:], clap.audio(clips[1][None]), atol=1e-5, rtol=0)
    torch.testing.assert_close(judge.embed_text(TEXTS), clap.text(TEXTS))
    torch.testing.assert_close(judge.embed_text(TEXTS).norm(dim=-1), torch.ones(3))


# ---- PaSST ---------------------------------------------------------------------------------------------------------
def theirs(path, wav, **shape):
    """Logits and embeddings of hear21passt's own front end and network."""
    package = importlib.import_module("hear21passt.models.passt")
    mel = importlib.import_module("hear21passt.models.preprocess").AugmentMelSTFT(
        n_mels=128, sr=32_000, win_length=800, hopsize=320, n_fft=1024, freqm=48, timem=192, htk=False, fmin=0.0,
        fmax=None, norm=1, fmin_aug_range=10, fmax_aug_range=2000,
    )  # fmt: skip
    network = package.PaSST(img_size=(128, 998), stride=(10, 10), distilled=True, **shape)
    network.load_state_dict(torch.load(path))
    with torch.no_grad():
        return network.eval()(mel.eval()(wav)[:, None])


@pytest.mark.filterwarnings("ignore")
def test_passt_gives_what_hear21passt_does(sources, judges):
    judge = judges["passt"]
    assert (judge.sample_rate, judge.window, judge.hop, judge.labels[3]) == (32_000, 10, 10, "audioset:3")
    clips = sounds(32_000, 10, 3.3, 14)
    heard = hear(judge, clips)
    shape = {"embed_dim": 64, "depth": 2, "num_heads": 1, "num_classes": 20}
    for row, pieces in enumerate(([clips[0]], [clips[1]], [clips[2][:320_000], clips[2][-320_000:]])):
        logits, embeddings = zip(*(theirs(sources["passt"], piece[None], **shape) for piece in pieces), strict=True)
        torch.testing.assert_close(heard.windows()[row], torch.cat(embeddings), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(heard.logits[row], torch.cat(logits).mean(0), atol=1e-4, rtol=1e-4)
    assert heard.logits.std(0).min() > 1e-3


@pytest.mark.slow
def test_passt_of_the_published_size(tmp_path, capfd):
    """As hear21passt builds it without its download: 86 million parameters, 768 dimensions, 527 classes."""
    made.passt_file(tmp_path / "passt.pt", embed_dim=768, depth=12, num_heads=12, num_classes=527)
    begun = time.perf_counter()
    judge = resolve_judge(f"passt:{tmp_path / 'passt.pt'}")
    assert time.perf_counter() - begun < 20
    assert 86e6 < sum(parameter.numel() for parameter in judge.parameters()) < 87e6
    assert len(judge.network.blocks[0].attn.qkv.weight) == 3 * 768
    assert judge.network.blocks[0].attn.num_heads == 12
    heard = hear(judge, sounds(32_000, 1))
    assert heard.embeddings.shape == (1, 1, 768)
    assert heard.logits.shape == (1, 527)
    assert capfd.readouterr() == ("", "")


# ---- VGGish --------------------------------------------------------------------------------------------------------
def vggish_by_hand(state, clip):
    """Frame by frame in numpy, as the mel_features.py of AudioSet defines it, and layer by layer."""
    clip = clip.double().numpy()
    window = 0.5 - 0.5 * np.cos(2 * np.pi / 400 * np.arange(400))
    count = 1 + (len(clip) - 400) // 160
    magnitudes = np.array([np.abs(np.fft.rfft(clip[160 * i : 160 * i + 400] * window, 512)) for i in range(count)])
    filters = mel_filter_bank(257, 64, 125, 7500, 16_000, mel_scale="kaldi", triangularize_in_mel_space=True)
    filters[0] = 0
    log_mel = np.log(magnitudes @ filters + 0.01)
    pictures = np.array([log_mel[96 * i : 96 * i + 96] for i in range(count // 96)])
    x = torch.from_numpy(pictures).float()[:, None]
    for place in (0, 3, 6, 8, 11, 13):
        x = relu(conv2d(x, state[f"features.{place}.weight"], state[f"features.{place}.bias"], padding=1))
        x = max_pool2d(x, 2) if place in (0, 3, 8, 13) else x
    x = x.transpose(1, 3).transpose(1, 2).reshape(len(x), -1)
    for place in (0, 2, 4):
        x = linear(x, state[f"embeddings.{place}.weight"], state[f"embeddings.{place}.bias"])
        x = relu(x) if place < 4 else x
    return x


def test_vggish_is_the_published_network(sources, judges):
    judge, state = judges["vggish"], torch.load(sources["vggish"])
    assert (judge.sample_rate, judge.window, judge.hop) == (16_000, 0.975, 0.96)
    clips = sounds(16_000, 1, 3.2, 0.975, 4.8)
    for clip, windows in zip(clips, hear(judge, clips).windows(), strict=True):
        torch.testing.assert_close(windows, vggish_by_hand(state, clip), atol=1e-4, rtol=1e-4)
    # Raw: the last layer has no ReLU.
    assert hear(judge, clips).embeddings.min() < -0.01


def test_vggish_has_the_published_size():
    with torch.device("meta"):
        network = VGGish([64, 128, 256, 256, 512, 512], 4096, 128)
        assert network(torch.zeros(3, 1, 96, 64)).shape == (3, 128)
    assert sum(parameter.numel() for parameter in network.parameters()) == 72_141_184


# ---- PANN ----------------------------------------------------------------------------------------------------------
@pytest.mark.filterwarnings("ignore")
def test_pann_is_the_network_of_frechet_audio_distance(tmp_path):
    network = made.pann_network()
    judge = resolve_judge(f"pann:{made.pann_file(tmp_path / 'pann.pth', network)}")
    assert (judge.sample_rate, judge.window, judge.hop) == (16_000, 10, 10)
    clips = sounds(16_000, 1, 0.6)
    clips.append(1e-4 * clips[0])  # so quiet that the floor counts
    heard = hear(judge, clips)
    assert heard.embeddings.shape == (3, 1, 128)
    for row, clip in enumerate(clips):
        with torch.no_grad():
            wanted = network(clip[None])
        torch.testing.assert_close(heard.embeddings[row], wanted["embedding"], atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(heard.logits[row].sigmoid(), wanted["clipwise_output"][0], atol=1e-4, rtol=1e-3)
    assert heard.embeddings.max() > 0.1
    assert (heard.embeddings[0] - heard.embeddings[1]).abs().max() > 0.01


def test_pann_has_the_published_size():
    with torch.device("meta"):
        network = Cnn14(64, [64, 128, 256, 512, 1024, 2048], 2048, 527)
        embeddings, logits = network.eval()(torch.zeros(3, 101, 64))
    assert (embeddings.shape, logits.shape) == ((3, 2048), (3, 527))
    assert 79e6 < sum(parameter.numel() for parameter in network.parameters()) < 81e6


def test_pann_hears_ten_seconds_at_a_time(judges):
    clip = sounds(16_000, 14)[0]
    heard, first, last = (hear(judges["pann"], [some]) for some in (clip, clip[:160_000], clip[-160_000:]))
    wanted = torch.cat([first.windows()[0], last.windows()[0]])
    torch.testing.assert_close(heard.windows()[0], wanted, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(heard.logits, (first.logits + last.logits) / 2, atol=1e-5, rtol=1e-4)
