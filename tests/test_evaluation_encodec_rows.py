"""EnCodec's encoder in tiles is transformers', wherever tiles end."""

import pytest
import torch
from judge_weights import alive
from transformers import EncodecConfig, EncodecModel

from evaluation.judges import encodec_rows
from evaluation.judges.encodec import EncodecJudge

SHAPES = {
    "24 kHz": {},
    "32 kHz": {"use_causal_conv": False, "use_conv_shortcut": False, "num_residual_layers": 2},
    "zeros": {"pad_mode": "constant"},
    "stereo": {"audio_channels": 2, "use_causal_conv": False},
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("tile", [1, 2**17])
def test_frames_are_transformers(shape, tile, monkeypatch):
    monkeypatch.setattr(encodec_rows, "_TILE", tile)
    monkeypatch.setattr(encodec_rows, "_FEWEST", 16)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = EncodecConfig(num_filters=4, hidden_size=12, codebook_dim=12, upsampling_ratios=[5, 4, 2], **shape)
        model = alive(EncodecModel(config))
        for length in (2000, 2001, 777, 40, 41, 3):
            clips = torch.randn(2, config.audio_channels, length)
            with torch.inference_mode():
                wanted = model.encoder(clips).transpose(1, 2)
                found = encodec_rows.RowEncoder(model.encoder)(clips)
            assert found.shape == wanted.shape == (2, -(-length // 40), 12)
            torch.testing.assert_close(found, wanted, atol=2e-5 * float(wanted.abs().max()), rtol=0)


def test_group_norm_hears_the_whole_clip():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = EncodecConfig(
            num_filters=4, hidden_size=12, codebook_dim=12, upsampling_ratios=[5, 4], norm_type="time_group_norm"
        )
        model = alive(EncodecModel(config))
        judge, clips = EncodecJudge(model, "group"), torch.randn(2, 500)
        with torch.inference_mode():
            wanted = model.encoder(clips[:, None]).transpose(1, 2)
    assert torch.equal(judge.embed_audio(clips[:, None], torch.tensor([500, 500])).embeddings, wanted)
