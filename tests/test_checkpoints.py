"""Model folders: what goes in comes out, and nothing else is accepted."""

import ast
import shutil
from pathlib import Path

import pytest
import tiny
import torch
import yaml
from safetensors.torch import load_file, save_file

from datamodules.errors import InputError
from experiments.benchmarks import memory
from lightning_modules import checkpoints, model_folders
from lightning_modules.checkpoints import load_model, save_model
from lightning_modules.codec.folder import codec_checksum, load_codec, save_codec
from lightning_modules.conditioning.conditioners import Conditioners, build_conditioners
from lightning_modules.model_folders import read_config


def edit_config(folder, **fields):
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **fields}))


def edit_weights(folder, change):
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors")


def test_a_codec_survives(codec, codec_folder):
    again = load_codec(codec_folder)
    wav = torch.randn(2, 1, 333) * 0.3
    codes = codec.encode(wav)
    assert torch.equal(again.encode(wav), codes)
    assert torch.equal(again.decode(codes), codec.decode(codes))
    assert again.config == codec.config
    assert again.checksum == codec.checksum == codec_checksum(codec_folder)
    assert len(again.checksum) == 64
    assert not again.training


def test_a_model_survives(model_folder):
    encoder, lm = tiny.conditioners(), tiny.language_model()
    again = load_model(model_folder)
    given = again.conditions(["a calm piano", ""])
    embeddings, mask = encoder(["a calm piano", ""])["text"]
    torch.testing.assert_close(given["text"].embeddings, embeddings, atol=1e-5, rtol=1e-5)
    assert torch.equal(given["text"].mask, mask)
    codes = tiny.codes(2, 6)
    torch.testing.assert_close(again.lm.logits(codes, given)[0], lm.logits(codes, given)[0])
    assert again.codec.checksum == codec_checksum(model_folder / "codec")
    assert not any(module.training for module in (again.lm, again.conditioners, again.codec))


def test_a_frozen_encoder_is_named_rather_than_stored(tmp_path, codec_folder):
    tiny.text_encoder().save(tmp_path / "t5")
    text = type(tiny.TEXT)(name=str(tmp_path / "t5"))
    encoder = build_conditioners(text, None)
    save_model(tmp_path / "m", tiny.language_model(), text, encoder, codec_folder, about={"licence": "none"})
    assert not (tmp_path / "m" / "text_encoder").exists()
    again = load_model(tmp_path / "m", dtype=torch.bfloat16)
    assert again.about["licence"] == "none"
    assert again.lm.embedding.weight.dtype == torch.bfloat16
    assert next(again.codec.parameters()).dtype == torch.float32
    assert again.generate_codes(["piano"], 0.05)[0].shape == (4, 5)


def test_saving_over_the_folder_it_was_loaded_from(model_folder):
    loaded = load_model(model_folder)
    save_model(model_folder, loaded.lm, tiny.TEXT, loaded.conditioners, model_folder / "codec")
    assert load_model(model_folder).checksum == loaded.checksum


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_of_the_model_that_lay_in_the_folder_nothing_stays(tmp_path, model_folder, codec_folder):
    """But of all else: a run's record, say."""
    (model_folder / "codec" / "of another codec.txt").write_text("")
    (model_folder / "training.json").write_text("{}")
    tiny.text_encoder().save(tmp_path / "t5")
    frozen = type(tiny.TEXT)(name=str(tmp_path / "t5"))
    for text, conditioners in ((frozen, build_conditioners(frozen, None)), (None, Conditioners(None))):
        lm = tiny.language_model(cross=("text",) if text else ())
        save_model(model_folder, lm, text, conditioners, codec_folder)
        assert {path.name for path in model_folder.iterdir()} == {
            "codec", "config.yaml", "model.safetensors", "training.json",
        }  # fmt: skip
        assert files(model_folder / "codec") == files(codec_folder)
        assert load_model(model_folder).conditioners.dims == ({"text": 16} if text else {})


def test_a_model_that_is_not_written_to_its_end_leaves_the_earlier_one(tmp_path, model_folder, monkeypatch):
    before = files(model_folder)

    save_codec(tmp_path / "other", tiny.codec(codebooks=2))

    def interrupted(tensors, path):
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(model_folders, "save_file", interrupted)
    for folder in (model_folder, tmp_path / "new"):
        with pytest.raises(KeyboardInterrupt):
            save_model(folder, tiny.language_model(seed=1), tiny.TEXT, tiny.conditioners(), tmp_path / "other")
    assert files(model_folder) == before
    assert not (tmp_path / "new").exists()


def test_weights_are_taken_as_they_are_read_in_the_types_of_the_model(model_folder, codec_folder):
    saved = tiny.language_model()
    given = tiny.conditions([4, 2])
    codes = tiny.codes(2, 6)
    for half in (False, True):
        save_model(model_folder, saved, tiny.TEXT, tiny.conditioners(), codec_folder, half=half)
        stored = load_file(model_folder / "model.safetensors")
        assert {tensor.dtype for tensor in stored.values()} == {torch.float16 if half else torch.float32}
        lm = load_model(model_folder).lm
        assert lm.state_dict().keys() == stored.keys()
        assert all(torch.equal(tensor, stored[name].float()) for name, tensor in lm.state_dict().items())
        assert {(p.dtype, p.device.type, p.requires_grad) for p in lm.parameters()} == {(torch.float32, "cpu", True)}
        assert torch.equal(lm.offsets, saved.offsets)
        wanted = tiny.language_model()
        wanted.load_state_dict(stored)
        torch.testing.assert_close(lm.logits(codes, given), wanted.logits(codes, given), atol=1e-6, rtol=0)


def test_the_weights_are_in_memory_once(tmp_path, codec_folder):
    # Alive to the end: memory that was freed before would be taken again unseen.
    lm = tiny.language_model(cross=(), dim=1024, layers=4, ff_ratio=4)
    save_model(tmp_path / "model", lm, None, Conditioners(None), codec_folder)
    size = sum(parameter.nbytes for parameter in lm.parameters()) / 1e6
    before = memory.start_memory()
    loaded = load_model(tmp_path / "model").lm
    assert all(parameter.isfinite().all() for parameter in loaded.parameters())  # looks at every value
    assert size > 200
    assert 0.9 * size < memory.peak_memory() - before < 1.4 * size
    assert torch.equal(loaded.heads.weight, lm.heads.weight)


def test_a_folder_that_was_half_written_has_no_config(tmp_path, codec, monkeypatch):
    def full_disk(*args, **kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr(model_folders, "save_file", full_disk)
    with pytest.raises(OSError, match="no space"):
        save_codec(tmp_path / "codec", codec)
    assert not (tmp_path / "codec" / "config.yaml").exists()
    with pytest.raises(InputError, match="not a model folder"):
        load_codec(tmp_path / "codec")


SPOILED = {
    "no folder": (lambda f: [file.unlink() for file in f.iterdir()], r"config\.yaml is missing"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "is missing"),
    "cut short": (lambda f: (f / "model.safetensors").write_bytes(b"\x08" * 20), "not readable as safetensors"),
    "empty": (lambda f: (f / "model.safetensors").write_bytes(b""), "not readable as safetensors"),
    "tensor missing": (lambda f: edit_weights(f, lambda s: s.pop("encoder.0.conv.bias")), "bias is missing"),
    "tensor unknown": (lambda f: edit_weights(f, lambda s: s.update(extra=torch.zeros(1))), "extra is unknown"),
    "misshapen": (lambda f: edit_config(f, codec={**read_config(f, "codec")["codec"], "dim": 6}), "wanted"),
    "unknown field": (lambda f: edit_config(f, codec={"colour": "red"}), "colour"),
    "not a mapping": (lambda f: edit_config(f, codec=3), r"config\.yaml"),
    "section missing": (lambda f: (f / "config.yaml").write_text("kind: codec\n"), r"config\.yaml"),
    "wrong kind": (lambda f: edit_config(f, kind="language_model"), "kind 'language_model'"),
    "broken YAML": (lambda f: (f / "config.yaml").write_text("kind: [codec"), "YAML"),
    "binary": (lambda f: (f / "config.yaml").write_bytes(b"\xff\xfe\x00\x80"), "YAML"),
    "a list": (lambda f: (f / "config.yaml").write_text("- codec"), "kind None"),
}


@pytest.mark.parametrize(("spoil", "message"), SPOILED.values(), ids=SPOILED)
def test_spoiled_folders_are_refused(codec_folder, spoil, message):
    spoil(codec_folder)
    with pytest.raises(InputError, match=message):
        load_codec(codec_folder)


def test_spoiled_model_folders_are_refused(tmp_path, model_folder):
    with pytest.raises(InputError):
        load_model(tmp_path / "nowhere")
    with pytest.raises(InputError, match="kind 'codec'"):
        load_model(model_folder / "codec")
    save_codec(model_folder / "codec", tiny.codec(entries=32))
    with pytest.raises(InputError, match="32 entries"):
        load_model(model_folder)


def test_an_encoder_that_was_trained_along_is_never_made_up(tmp_path, model_folder):
    shutil.copytree(model_folder, tmp_path / "m")
    shutil.rmtree(tmp_path / "m" / "text_encoder")
    with pytest.raises(InputError, match="copy the folder whole"):
        load_model(tmp_path / "m")


def test_nothing_is_unpickled():
    root = Path(checkpoints.__file__).parents[1]
    packages = ("datamodules", "lightning_modules", "evaluation", "experiments")
    files = [file for package in packages for file in (root / package).rglob("*.py")]
    assert len(files) > 30
    loads = 0
    for file in files:
        text = file.read_text()
        for call in ast.walk(ast.parse(text)):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "torch.load":
                loads += 1
                given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
                assert given.get("weights_only") == "True", f"{file}: {ast.unparse(call)}"
        for word in ("import pickle", "joblib", "weights_only=False", "yaml.load(", "allow_pickle=True"):
            assert word not in text, f"{file} uses {word}"
    assert loads > 0


def test_a_codec_in_half_precision_is_nearly_the_same(tmp_path):
    codec = tiny.codec()
    for book in codec.quantizer.codebooks:
        book.size.copy_(torch.rand(book.size.shape) * 9)
        book.total.copy_(book.entries * book.size[:, None])
    save_codec(tmp_path / "whole", codec)
    save_codec(tmp_path / "half", codec, {"licence": "none"}, half=True)
    state = load_file(tmp_path / "half" / "model.safetensors")
    assert {tensor.dtype for tensor in state.values()} == {torch.float16, torch.bool}
    assert not any(name.endswith("total") for name in state)
    again = load_codec(tmp_path / "half")
    assert again.checksum == codec.checksum == codec_checksum(tmp_path / "half")
    assert {tensor.dtype for tensor in again.state_dict().values()} == {torch.float32, torch.bool}
    for (name, ours), theirs in zip(codec.state_dict().items(), again.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=2e-3, msg=name)
    sizes = [sum(file.stat().st_size for file in (tmp_path / name).iterdir()) for name in ("whole", "half")]
    assert sizes[1] < 0.6 * sizes[0]
    wav = torch.randn(1, 1, 800) * 0.3
    codes = codec.encode(wav)
    torch.testing.assert_close(again.decode(codes), codec.decode(codes), atol=5e-3, rtol=0)
