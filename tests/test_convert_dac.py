"""DACs to and from transformers: the same codes and audio on both sides."""

import pytest
import torch
import yaml
from foreign_codecs import (
    dac_peer,
    edit,
    save,
)

from datamodules.errors import InputError
from lightning_modules.codec.folder import codec_checksum, load_codec
from lightning_modules.converting.run import convert


def normed(state):
    """Weight norm in its old naming, as in checkpoints that were never folded; gains that are not the norm's."""
    made = {}
    for name, tensor in state.items():
        if name.endswith(".weight") and tensor.dim() == 3:
            norms = tensor.flatten(1).norm(dim=1)[:, None, None]
            made.update({f"{name}_g": norms, f"{name}_v": tensor * 2.5})
        else:
            made[name] = tensor
    return made


def assert_same_dac(ours, theirs, codebooks):
    wav = torch.randn(2, 1, 8 * 40, generator=torch.Generator().manual_seed(1))
    codes = ours.encode(wav)
    with torch.no_grad():
        wanted = theirs.encode(wav, n_quantizers=codebooks).audio_codes
        decoded = theirs.decode(audio_codes=wanted).audio_values
    assert torch.equal(codes, wanted)
    assert sum(len(codes[:, k].unique()) for k in range(codebooks)) >= codebooks * 16 / 2
    assert decoded.std() > 1e-3
    torch.testing.assert_close(ours.decode(codes)[:, 0, : decoded.shape[-1]], decoded, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("codebooks", [None, 2])
def test_dac_from_transformers_and_back(tmp_path, codebooks):
    from transformers import DacModel

    theirs, kept = dac_peer(), codebooks or 3
    theirs.save_pretrained(tmp_path / "hf")
    convert(tmp_path / "hf", tmp_path / "native", codebooks=codebooks)
    ours = load_codec(tmp_path / "native")
    assert (ours.codebooks, ours.hop, ours.entries) == (kept, 8, 16)
    assert_same_dac(ours, theirs, kept)
    convert(tmp_path / "native", tmp_path / "again", "hf")
    again, said = DacModel.from_pretrained(tmp_path / "again", output_loading_info=True)
    assert not any(said.values()), said
    assert again.config.n_codebooks == kept
    assert_same_dac(ours, again.eval(), kept)
    convert(tmp_path / "again", tmp_path / "once more")
    assert codec_checksum(tmp_path / "once more") == ours.checksum


def test_dac_with_weight_norm(tmp_path):
    theirs = dac_peer()
    convert(save(theirs, tmp_path / "old", normed), tmp_path / "old native")
    assert_same_dac(load_codec(tmp_path / "old native"), theirs, 3)
    wanted = dac_peer()
    theirs.apply_weight_norm()
    convert(save(theirs, tmp_path / "new"), tmp_path / "new native")
    assert_same_dac(load_codec(tmp_path / "new native"), wanted, 3)


def test_a_dac_of_which_few_codebooks_are_used_goes_out_with_those(tmp_path):
    from transformers import DacModel

    theirs = dac_peer()
    convert(save(theirs, tmp_path / "hf"), tmp_path / "native")
    config = yaml.safe_load((tmp_path / "native" / "config.yaml").read_text())
    (tmp_path / "native" / "config.yaml").write_text(yaml.safe_dump({**config, "codebooks": 1}))
    convert(tmp_path / "native", tmp_path / "again", "hf")
    again = DacModel.from_pretrained(tmp_path / "again").eval()
    assert_same_dac(load_codec(tmp_path / "native"), again, 1)
    assert again.config.n_codebooks == 1


DAC_FIELDS = {
    "ratios": ({"downsampling_ratios": [2, 0]}, r"downsampling_ratios is \[2, 0\]"),
    "no ratios": ({"downsampling_ratios": []}, r"downsampling_ratios is \[\]"),
    "entries": ({"codebook_size": 12}, "power of 2"),
    "words": ({"n_codebooks": "many"}, "n_codebooks"),
    "no codebook": ({"n_codebooks": 0}, "n_codebooks is 0"),
    "derived": ({"hop_length": 99}, "hop_length is 99"),
    "another shape": ({"encoder_hidden_size": 8}, "encoder_hidden_size|hidden_size is 16"),
    "more codebooks": ({"n_codebooks": 4}, r"quantizer\.quantizers\.3\.\S+ is missing"),
    "fewer codebooks": ({"n_codebooks": 2}, r"quantizer\.quantizers\.2\.\S+ is unknown"),
    "wider codebooks": ({"codebook_dim": 5}, r"quantizers\.0\.\S+ is \[4, 16, 1\], wanted \[5, 16, 1\]"),
}


@pytest.mark.parametrize(("fields", "message"), DAC_FIELDS.values(), ids=DAC_FIELDS)
def test_spoiled_dacs_are_refused(tmp_path, fields, message):
    edit(save(dac_peer(), tmp_path / "hf"), **fields)
    with pytest.raises(InputError, match=message):
        convert(tmp_path / "hf", tmp_path / "native")
    assert not (tmp_path / "native").exists()
