"""Judges by name, and the files of their weights: missing, damaged, fetched. Nothing here asks the network."""

import hashlib
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace

import judge_weights as made
import pytest
import torch

from datamodules.errors import InputError
from evaluation.judges import published, resolve_judge
from evaluation.judges.published import Published, fetch_published, find_published
from experiments.commands.weights import _known

FILES = {"vggish": published.VGGISH, "passt": published.PASST, "pann": published.PANN, "clap": published.LAION_CLAP}


@pytest.fixture
def no_network(tmp_path, monkeypatch):
    """Empty caches, and an error for whoever opens a connection."""

    def refuse(*args, **kwargs):
        raise AssertionError("a test asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Where torch.hub keeps files, in this test."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
    return tmp_path / "torch" / "hub" / "checkpoints"


def one_line(raised):
    assert "\n" not in str(raised.value)


# ---- by name -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", FILES)
@pytest.mark.usefixtures("no_network")
def test_what_is_not_there_is_said_at_once_with_what_to_do(kind):
    begun = time.perf_counter()
    name = FILES[kind].name
    with pytest.raises(InputError, match=rf'not on this machine; run `make weights ARGS="--only {name}"`') as raised:
        resolve_judge(kind)
    one_line(raised)
    assert str(FILES[kind].path) in str(raised.value)
    with pytest.raises(InputError, match=r"nowhere.pt: there is no such file"):
        resolve_judge(f"{kind}:nowhere.pt")
    assert time.perf_counter() - begun < 5
    # What the errors name is what can be fetched.
    assert name in _known()


@pytest.mark.parametrize("name", ["encodec", "encodec:some/codec", "clap:laion/larger_clap_music"])
@pytest.mark.usefixtures("no_network")
def test_models_of_the_hub_are_said_to_be_missing_at_once(name):
    begun = time.perf_counter()
    with pytest.raises(
        InputError, match=r"not on this machine, and the Hugging Face hub cannot be asked; .*network"
    ) as raised:
        resolve_judge(name)
    one_line(raised)
    assert time.perf_counter() - begun < 5


def test_a_fresh_process_is_told_without_importing_the_heavy_packages(tmp_path):
    code = (
        "import sys, time; from datamodules.errors import InputError; from evaluation.judges import resolve_judge\n"
        "begun = time.perf_counter()\n"
        "for name in ('passt', 'vggish', 'pann', 'clap', 'encodec', 'clap:some/clap'):\n"
        "    try: resolve_judge(name)\n"
        "    except InputError as error: print(error)\n"
        "assert time.perf_counter() - begun < 5\n"
        "heavy = {'laion_clap', 'hear21passt', 'frechet_audio_distance', 'timm', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    environment = {**os.environ, "TORCH_HOME": str(tmp_path), "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=100)
    assert told.returncode == 0, told.stderr
    assert told.stdout.count("make weights") == 5
    assert told.stdout.count("network") == 6


def test_names_of_nothing(tmp_path, monkeypatch):
    for name in ("encodec:/no/where", "clap:a/b/c"):
        with pytest.raises(InputError, match=r"there is no such folder"):
            resolve_judge(name)
    with pytest.raises(InputError, match=r"no judge; use embedded, vggish, passt, pann, clap, encodec"):
        resolve_judge("vgg")
    monkeypatch.setitem(sys.modules, "hear21passt.models.passt", None)
    made_before = made.vggish_file(tmp_path / "any.pt")
    shape = {"cls_token": (1, 1, 64), "head.1.weight": (2, 64), "time_new_pos_embed": (1, 64, 1, 99)}
    torch.save({name: torch.zeros(size) for name, size in shape.items()}, made_before)
    with pytest.raises(InputError, match=r"judge passt needs the package hear21passt; `make setup`"):
        resolve_judge(f"passt:{made_before}")


# ---- files ---------------------------------------------------------------------------------------------------------
WRITERS = {"vggish": made.vggish_file, "passt": made.passt_file, "pann": made.pann_file}


@pytest.mark.parametrize("kind", WRITERS)
def test_weights_lie_where_torch_hub_keeps_them_and_are_checked(kind, hub, monkeypatch):
    """The published file is stood for by a random one with its own checksum."""
    wanted = FILES[kind]
    hub.mkdir(parents=True)
    WRITERS[kind](wanted.path)
    assert wanted.path.parent == hub
    with pytest.raises(InputError, match=rf"another file \(sha256 .*, not {wanted.sha256[:8]}.*make weights") as raised:
        resolve_judge(kind)
    one_line(raised)
    checksum = hashlib.sha256(wanted.path.read_bytes()).hexdigest()
    module = sys.modules[f"evaluation.judges.{kind}"]
    monkeypatch.setattr(module, kind.upper(), replace(wanted, sha256=checksum))
    judge = resolve_judge(kind)
    assert (judge.name, judge.checksum) == (kind, checksum)


def test_a_pin_beside_the_file_is_kept(tmp_path):
    path = made.vggish_file(tmp_path / "mine.pth")
    checksum = resolve_judge(f"vggish:{path}").checksum
    assert checksum == hashlib.sha256(path.read_bytes()).hexdigest()
    pin = tmp_path / "mine.pth.sha256"
    pin.write_text(f"{checksum}  mine.pth\n")
    assert resolve_judge(f"vggish:{path}").checksum == checksum
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(InputError, match=rf"mine.pth: is damaged or another file .*not {checksum[:12]}"):
        resolve_judge(f"vggish:{path}")


@pytest.mark.parametrize("kind", WRITERS)
def test_files_that_hold_something_else_are_refused(kind, tmp_path):
    path = tmp_path / "weights.pth"
    whole = torch.load(WRITERS[kind](path), weights_only=False)
    state = whole.get("model", whole)

    def saved(content):
        torch.save({"model": content} if "model" in whole and isinstance(content, dict) else content, path)

    first = next(name for name in state if name.endswith("weight") and "_extractor" not in name)
    wrong = {
        "not the weights": [
            {name: tensor for name, tensor in state.items() if name != first},
            {**state, first: torch.zeros(3, 2)},
            {**state, "more": torch.zeros(1)},
            {name: tensor.flatten()[0] for name, tensor in state.items()},
        ],
        "holds no state dict": [{}, [torch.zeros(1)], {**state, "word": "x"}],
    }
    for said, contents in wrong.items():
        for content in contents:
            saved(content)
            with pytest.raises(InputError, match=rf"weights.pth: {said}") as raised:
                resolve_judge(f"{kind}:{path}")
            one_line(raised)
            assert len(str(raised.value)) < 400
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(InputError, match=r"weights.pth: is damaged"):
        resolve_judge(f"{kind}:{path}")
    torch.save({"model": state, "more": Evil(tmp_path / "ran")}, path)
    with pytest.raises(InputError, match=r"reading that would run code"):
        resolve_judge(f"{kind}:{path}")
    assert not (tmp_path / "ran").exists()


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_pann_for_another_rate_is_refused(tmp_path):
    path = made.pann_file(tmp_path / "pann.pth", **{"logmel_extractor.melW": torch.zeros(513, 64)})
    with pytest.raises(InputError, match=r"pann.pth: not the weights of pann, .*another sample rate"):
        resolve_judge(f"pann:{path}")


def test_half_precision_weights_are_heard_in_single(tmp_path):
    path = made.vggish_file(tmp_path / "vggish.pth")
    torch.save({name: tensor.half() for name, tensor in torch.load(path).items()}, path)
    judge = resolve_judge(f"vggish:{path}")
    assert judge.embed_audio(torch.randn(1, 1, 16_000), torch.tensor([16_000])).embeddings.dtype == torch.float32


@pytest.mark.filterwarnings("ignore:.*meshgrid")
def test_the_papers_clap_is_checked_and_read_as_laion_clap_wrote_it(hub, tmp_path, monkeypatch):
    hub.mkdir(parents=True)
    path = published.LAION_CLAP.path
    network = made.laion_clap_file(path)
    with pytest.raises(InputError, match=r"is damaged or another file"):
        resolve_judge("clap")
    checksum = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(published, "LAION_CLAP", replace(published.LAION_CLAP, sha256=checksum))
    with pytest.raises(InputError, match=r"tokenizer of CLAP, roberta-base is not on this machine"):
        resolve_judge("clap")
    monkeypatch.setattr("datamodules.features.clap.ROBERTA", str(made.byte_tokenizer(tmp_path / "words")))
    judge = resolve_judge("clap")
    assert judge.name == "clap:music_audioset_epoch_15_esc_90.14"
    wav = 0.1 * torch.randn(1, 1, 480_000, generator=torch.Generator().manual_seed(0))
    heard = judge.embed_audio(wav, torch.tensor([480_000]))
    torch.testing.assert_close(heard.embeddings[0], network.audio(wav[0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(judge.embed_text(["calm piano"]), network.text(["calm piano"]), atol=1e-5, rtol=0)


# ---- fetching ------------------------------------------------------------------------------------------------------
def at(path, sha256):
    return Published("some", "some-net.pth", path.as_uri() if hasattr(path, "as_uri") else path, sha256)


def test_fetched_once_checked_and_pinned(hub, tmp_path):
    source = made.vggish_file(tmp_path / "source.pth")
    checksum = hashlib.sha256(source.read_bytes()).hexdigest()
    known = at(source, checksum[:8])
    assert fetch_published(known) == hub / "some-net.pth"
    assert (hub / "some-net.pth").read_bytes() == source.read_bytes()
    assert (hub / "some-net.pth.sha256").read_text() == f"{checksum}  some-net.pth\n"
    source.unlink()
    fetch_published(known)
    assert find_published(known) == (hub / "some-net.pth", checksum)
    (hub / "some-net.pth").write_bytes(b"else")
    with pytest.raises(InputError, match=r"some-net.pth: is damaged or another file"):
        fetch_published(known)


def test_a_whole_checksum_needs_no_pin(hub, tmp_path):
    source = made.vggish_file(tmp_path / "source.pth")
    fetch_published(at(source, hashlib.sha256(source.read_bytes()).hexdigest()))
    assert [path.name for path in hub.iterdir()] == ["some-net.pth"]


def test_what_cannot_be_fetched_is_said_and_leaves_nothing(hub, tmp_path, monkeypatch):
    source = made.vggish_file(tmp_path / "source.pth")
    begun = time.perf_counter()
    for where, sha256, said in (
        (source, "0" * 64, "invalid hash"),
        (tmp_path / "absent.pth", "", "No such file"),
        ("http://127.0.0.1:9/net.pth", "", "refused"),
    ):
        with pytest.raises(InputError, match=rf"cannot be fetched \(.*{said}.* or put it at .*some-net.pth") as raised:
            fetch_published(at(where, sha256))
        one_line(raised)
        assert not list(hub.iterdir())
    assert time.perf_counter() - begun < 5
    assert socket.getdefaulttimeout() is None
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match=r"HF_HUB_OFFLINE says not to ask"):
        fetch_published(at(source, ""))


def test_a_silent_host_is_not_waited_for(hub, monkeypatch):
    """It takes the connection and says nothing."""
    monkeypatch.setattr(published, "_TIMEOUT_SECONDS", 0.3)
    monkeypatch.delenv("http_proxy", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        begun = time.perf_counter()
        with pytest.raises(InputError, match=r"cannot be fetched \(.*timed out"):
            fetch_published(at(f"http://127.0.0.1:{server.getsockname()[1]}/net.pth", ""))
    assert time.perf_counter() - begun < 5
