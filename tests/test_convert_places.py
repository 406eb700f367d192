"""Where codecs are converted from and to: the hub, folders that are there already, the command."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import yaml
from foreign_codecs import (
    assert_same,
    dac_peer,
    edit,
    loaded,
    peer,
    save,
)

from datamodules.errors import InputError
from experiments.__main__ import main
from lightning_modules.codec.folder import load_codec, save_codec
from lightning_modules.codec.stereo import StereoCodec
from lightning_modules.converting import run, sources
from lightning_modules.converting.codec_prefix import first_codebooks
from lightning_modules.converting.run import convert
from lightning_modules.converting.sources import read_model
from lightning_modules.model_folders import whole_folder


def hub_cache(folder, name, model):
    """The hub's cache as huggingface_hub lays it out, written by hand."""
    home = folder / f"models--{name.replace('/', '--')}"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text("0" * 40)
    model.save_pretrained(home / "snapshots" / ("0" * 40))
    return home


def test_a_name_of_the_hub_comes_from_its_cache_offline(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    theirs = peer()
    hub_cache(tmp_path / "cache", "someone/tiny.codec", theirs)
    convert("someone/tiny.codec", "native")
    assert_same(load_codec("native"), theirs)
    with pytest.raises(InputError, match="hub cannot be asked, and its cache has no such model"):
        convert("someone/else", "other")
    # A folder goes before a name of the hub.
    save(peer(num_filters=8), tmp_path / "someone" / "tiny.codec")
    convert("someone/tiny.codec", "local")
    assert load_codec("local").config.filters == 8


def test_of_the_hub_nothing_is_fetched_but_config_and_safetensors(tmp_path, monkeypatch):
    asked = []

    def snapshot_download(name, allow_patterns, local_files_only):
        asked.append((name, allow_patterns, local_files_only))
        return str(tmp_path / "hf")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    monkeypatch.setattr("datamodules.hub.hub_reachable", lambda: True)
    save(peer(), tmp_path / "hf")
    read_model("someone/codec")
    assert asked == [
        ("someone/codec", ["config.json"], False),
        ("someone/codec", ["config.json", "*.safetensors"], False),
    ]
    # Weights are not fetched only to be refused.
    asked.clear()
    edit(tmp_path / "hf", model_type="musicgen")
    with pytest.raises(InputError, match="text_encoder is missing"):
        read_model("someone/musicgen")
    assert len(asked) == 1

    def refused(*args, **kwargs):
        raise OSError("401 Client Error.\n\nRepository Not Found")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refused)
    with pytest.raises(InputError, match=r"someone/codec: not to be had .*401 Client Error"):
        read_model("someone/codec")


@pytest.mark.parametrize(
    "source", ["nowhere", "some/where/else", "codec/compression_state_dict.bin", "/a/b", "../a", ""]
)
def test_what_is_no_name_of_the_hub_is_not_asked_for(tmp_path, monkeypatch, source):
    def fetch(*args):
        raise AssertionError

    monkeypatch.setattr(sources, "fetch", fetch)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError):
        read_model(source)


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_codec_of_the_same_format_is_replaced_and_nothing_else(tmp_path):
    save_codec(tmp_path / "a", tiny.codec())
    save_codec(tmp_path / "b", tiny.codec(codebooks=2))
    for name in ("out", "empty"):
        (tmp_path / name).mkdir()
    convert(tmp_path / "a", tmp_path / "out")
    convert(tmp_path / "b", tmp_path / "out")
    assert load_codec(tmp_path / "out").codebooks == 2
    convert(tmp_path / "a", tmp_path / "empty", "hf")
    convert(tmp_path / "b", tmp_path / "empty", "hf")
    assert set(files(tmp_path / "empty")) == {"config.json", "model.safetensors", "preprocessor_config.json"}
    assert loaded(tmp_path / "empty").config.num_quantizers == 2
    # In place.
    convert(tmp_path / "a", tmp_path / "a", codebooks=3)
    assert load_codec(tmp_path / "a").codebooks == 3
    save(peer(), tmp_path / "mixed")
    save_codec(tmp_path / "mixed", tiny.codec())
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "song.txt").write_text("la")
    save_codec(tmp_path / "run", tiny.codec())
    (tmp_path / "run" / "training.json").write_text("{}")
    (tmp_path / "file").write_text("")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "model.safetensors").write_text("")
    for out, to in [
        ("notes", "native"), ("notes", "hf"), ("run", "native"), ("out", "hf"), ("empty", "native"), ("mixed", "hf"),
        ("mixed", "native"), ("file", "native"), ("half", "native"), ("half", "hf"),
    ]:  # fmt: skip
        before = files(tmp_path)
        with pytest.raises(InputError, match=f"{out}: is "):
            convert(tmp_path / "b", tmp_path / out, to)
        assert files(tmp_path) == before
    with pytest.raises(InputError, match="no folder can be made"):
        convert(tmp_path / "b", tmp_path / "file" / "below")


@pytest.mark.parametrize("to", ["native", "hf"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
@pytest.mark.parametrize("there", [False, True])
def test_nothing_half_written_stays(tmp_path, monkeypatch, to, error, there):
    save_codec(tmp_path / "mine", tiny.codec())
    if there:
        convert(tmp_path / "mine", tmp_path / "out", to, codebooks=2)
    before = files(tmp_path)
    writer = {"native": "save_codec", "hf": "write_huggingface"}[to]

    def stopped(folder, *args):
        (Path(folder) / "model.safetensors").write_text("half")
        raise error

    monkeypatch.setattr(run, writer, stopped)
    with pytest.raises(error):
        convert(tmp_path / "mine", tmp_path / "out", to)
    assert files(tmp_path) == before
    assert (tmp_path / "out").exists() == there


# The moves of a replacement: two old entries and one that goes aside, then three new ones.
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
@pytest.mark.parametrize("move", range(6))
@pytest.mark.parametrize("done", [False, True])
def test_a_replacement_that_fails_leaves_the_old_folder(tmp_path, monkeypatch, error, move, done):
    def write(folder, text):
        (folder / "codec").mkdir()
        for name in ("codec/model.safetensors", "config.yaml", f"{text}.txt"):
            (folder / name).write_text(text)

    (tmp_path / "out").mkdir()
    write(tmp_path / "out", "old")
    (tmp_path / "out" / "notes").write_text("mine")
    before = files(tmp_path / "out")
    replace, calls = Path.replace, []

    def stopped(self, target):
        calls.append(Path(target).name)
        if len(calls) == move + 1:
            if done:
                replace(self, target)
            raise error
        return replace(self, target)

    def convert_again():
        with whole_folder(tmp_path / "out", "config.yaml", ["old.txt"]) as folder:
            write(folder, "new")

    monkeypatch.setattr(Path, "replace", stopped)
    with pytest.raises(error):
        convert_again()
    assert files(tmp_path / "out") == before
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"codec", "config.yaml", "notes", "old.txt"}
    monkeypatch.setattr(Path, "replace", replace)
    calls.clear()
    convert_again()
    assert files(tmp_path / "out") == {
        "codec/model.safetensors": b"new", "config.yaml": b"new", "new.txt": b"new", "notes": b"mine",
    }  # fmt: skip


def test_a_folder_has_its_config_only_while_it_is_whole(tmp_path, monkeypatch):
    replace, seen = Path.replace, []

    def watched(self, target):
        replace(self, target)
        names = {path.name: path.is_file() and path.read_text() for path in (tmp_path / "out").iterdir()}
        seen.append({name: text for name, text in names.items() if not name.startswith(".")})

    monkeypatch.setattr(Path, "replace", watched)
    for text in ("old", "new"):
        with whole_folder(tmp_path / "out", "config.yaml") as folder:
            for name in ("adapter.safetensors", "config.yaml", "model.safetensors"):
                (folder / name).write_text(text)
    assert [state.get("config.yaml") for state in seen] == [None, None, "old", *[None] * 5, "new"]
    assert all(len(set(state.values())) == 1 for state in seen if "config.yaml" in state)


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    theirs = peer()
    save(theirs, tmp_path / "hf")
    capsys.readouterr()
    main(["convert", "hf", "native"])
    ours = load_codec("native")
    parameters = sum(parameter.numel() for parameter in theirs.parameters()) / 1e6
    said = capsys.readouterr()
    assert said.err == ""
    assert said.out == (
        f"EnCodec, {parameters:.1f} M parameters, 800 Hz mono, 4 x 16 codes at 100 Hz, 1.6 kbit/s, "
        f"checksum {ours.checksum[:12]}: native\n"
    )
    assert yaml.safe_load((tmp_path / "native" / "config.yaml").read_text())["converted_from"] == "hf"
    main(["convert", "native", "again", "--to", "hf", "--codebooks", "2"])
    assert capsys.readouterr().out.endswith("2 x 16 codes at 100 Hz, 0.8 kbit/s: again\n")
    assert_same(first_codebooks(ours, 2), loaded(tmp_path / "again"), 2)
    main(["convert", "native", "stereo", "--stereo", "true"])
    assert "800 Hz stereo, 8 x 16 codes" in capsys.readouterr().out
    assert isinstance(load_codec("stereo"), StereoCodec)
    save(dac_peer(), tmp_path / "dac")
    capsys.readouterr()
    main(["convert", "dac", "dac-native"])
    assert capsys.readouterr().out.startswith("DAC, ")


def test_the_command_in_a_process_of_its_own(tmp_path):
    """As a user gives it: the cache is where HF_HOME says, and a wrong line is one line."""
    hub_cache(tmp_path / "home" / "hub", "someone/codec", peer())
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

    def mgl(*arguments):
        command = [sys.executable, "-m", "experiments", "convert", *arguments]
        root = str(Path(__file__).parent.parent)
        return subprocess.run(
            command, cwd=tmp_path, env={**environment, "PYTHONPATH": root}, capture_output=True, text=True, check=False
        )

    done = mgl("someone/codec", "native")
    assert (done.returncode, done.stderr) == (0, "")
    assert load_codec(tmp_path / "native").codebooks == 4
    failed = mgl("no/such", "out")
    assert failed.returncode == 2
    assert failed.stderr.startswith("mgl convert: no/such: there is no such file or folder")
    assert len(failed.stderr.strip().splitlines()) == 1
