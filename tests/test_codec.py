"""The codec, against transformers' EnCodec."""

import pytest
import tiny
import torch

from datamodules.errors import InputError
from lightning_modules.codec.config import CodecConfig
from lightning_modules.codec.encodec import EnCodec

SHAPES = {
    "reflect": {"ratios": (5, 2)},  # an odd ratio pads one more on the left
    "constant": {"pad_mode": "constant", "lstm_layers": 2},
    "shortcut": {"conv_shortcut": True, "residual_units": 2, "channels": 2},
    "causal": {"causal": True, "ratios": (5, 2), "lstm_layers": 1},
}


@torch.no_grad()
def peer_of(ours):
    """transformers' EncodecModel with the weights of ours."""
    from transformers import EncodecConfig, EncodecModel

    shape = ours.config
    bits = (shape.entries - 1).bit_length()
    config = EncodecConfig(
        target_bandwidths=[shape.codebooks * bits * shape.frame_rate / 1000], sampling_rate=shape.sample_rate,
        audio_channels=shape.channels, normalize=False, hidden_size=shape.dim, num_filters=shape.filters,
        num_residual_layers=shape.residual_units, upsampling_ratios=list(shape.ratios), norm_type="weight_norm",
        kernel_size=shape.kernel, last_kernel_size=shape.last_kernel, residual_kernel_size=shape.residual_kernel,
        dilation_growth_rate=shape.dilation_base, use_causal_conv=shape.causal, pad_mode=shape.pad_mode,
        compress=shape.compress, num_lstm_layers=shape.lstm_layers, trim_right_ratio=1.0, codebook_size=shape.entries,
        codebook_dim=shape.dim, use_conv_shortcut=shape.conv_shortcut,
    )  # fmt: skip
    peer = EncodecModel(config).eval()
    state = peer.state_dict()
    for name, tensor in ours.state_dict().items():
        part, _, rest = name.partition(".")
        if part in ("encoder", "decoder"):
            assert state[f"{part}.layers.{rest}"].shape == tensor.shape
            state[f"{part}.layers.{rest}"] = tensor
    for k, book in enumerate(ours.quantizer.codebooks):
        state[f"quantizer.layers.{k}.codebook.embed"] = book.entries
    peer.load_state_dict(state)
    return peer


@torch.no_grad()
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_latents_codes_and_audio_equal_transformers(shape):
    ours = tiny.codec(**shape)
    peer = peer_of(ours)
    wav = torch.randn(2, ours.channels, 61 * ours.hop - 3, generator=torch.Generator().manual_seed(3)) * 0.3
    latents = ours.encoder(wav)
    torch.testing.assert_close(latents, peer.encoder(wav), atol=1e-5, rtol=1e-5)
    codes = ours.encode(wav)
    assert torch.equal(codes, peer.encode(wav)[0][0])
    used = sum(len(codes[:, k].unique()) for k in range(ours.codebooks))
    assert used >= ours.codebooks * ours.entries / 2  # parity of something
    decoded = ours.decode(codes)
    theirs = peer.decode(codes[None], [None])[0]
    assert decoded.std() > 0.01
    torch.testing.assert_close(decoded[..., : theirs.shape[-1]], theirs, atol=1e-5, rtol=1e-5)


def test_parameters_of_the_papers_codec():
    with torch.device("meta"):
        codec = EnCodec(CodecConfig())
    assert sum(p.numel() for p in codec.encoder.parameters()) == 28_441_984
    assert sum(p.numel() for p in codec.decoder.parameters()) == 28_442_690
    assert sum(p.numel() for p in codec.parameters()) == 56_884_674
    assert (codec.hop, codec.frame_rate) == (640, 50)


@pytest.mark.parametrize("mode", ["reflect", "constant"])
def test_frames_are_samples_over_hop_rounded_up(mode):
    codec = tiny.codec(pad_mode=mode)
    for samples in (8, 9, 15, 16, 17, 100, 799, 800, 801):
        codes = codec.encode(torch.randn(1, 1, samples))
        frames = -(-samples // 8)
        assert codes.shape == (1, 4, frames)
        assert codec.decode(codes).shape == (1, 1, frames * 8)
        assert codec(torch.randn(1, 1, samples)).reconstruction.shape == (1, 1, samples)


def test_gradient_passes_the_quantizer():
    codec = tiny.codec().train()
    wav = torch.randn(2, 1, 400) * 0.3
    output = codec(wav)
    output.reconstruction.abs().mean().backward()  # the commitment loss does not help
    gradients = [p.grad for p in codec.encoder.parameters()]
    assert all(g is not None and torch.isfinite(g).all() for g in gradients)
    assert sum(g.abs().sum() for g in gradients) > 0


def test_forward_says_what_encode_and_decode_say():
    codec = tiny.codec()
    wav = torch.randn(2, 1, 403) * 0.3
    output = codec(wav)
    assert torch.equal(output.codes, codec.encode(wav))
    torch.testing.assert_close(output.reconstruction, codec.decode(output.codes)[..., :403], atol=1e-5, rtol=0)


def test_signal_survives_initialisation():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        codec = EnCodec(CodecConfig(filters=8, dim=32, codebooks=1, entries=4)).eval()
        wav = torch.randn(4, 1, 6400) * 0.1
    with torch.no_grad():
        latents = codec.encoder(wav)
    # The latents depend on the audio rather than on biases: they vary over time and between items.
    assert latents.std((0, 2)).mean() > 0.01
    assert latents.std() > 3 * latents.mean((0, 2)).abs().mean()


@pytest.mark.parametrize("shape", [(1, 800), (1, 2, 800), (0, 1, 800), (800,)])
def test_audio_of_another_shape_is_refused(codec, shape):
    with pytest.raises(InputError, match="wants audio"):
        codec.encode(torch.zeros(shape))


def test_audio_at_another_rate_or_of_less_than_a_frame_is_refused(codec):
    with pytest.raises(InputError, match="at 800 Hz, got 32000 Hz"):
        codec.encode(torch.zeros(1, 1, 800), sample_rate=32000)
    assert codec.encode(torch.zeros(1, 1, 800), sample_rate=800).shape == (1, 4, 100)
    for samples in (0, 7):
        with pytest.raises(InputError, match=f"a frame of 8 samples, got {samples}"):
            codec.encode(torch.zeros(1, 1, samples))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_audio_that_is_not_finite_is_refused(codec, bad):
    wav = torch.zeros(1, 1, 80)
    wav[0, 0, 3] = bad
    with pytest.raises(InputError, match="not finite"):
        codec.encode(wav)


def test_codes_that_do_not_fit_are_refused(codec):
    for codes in (torch.zeros(1, 3, 5), torch.zeros(4, 5), torch.zeros(1, 4, 0)):
        with pytest.raises(InputError, match="wants codes"):
            codec.decode(codes.long())
    for bad in (-1, 16):
        codes = torch.zeros(1, 4, 5, dtype=torch.int64)
        codes[0, 2, 1] = bad
        with pytest.raises(InputError, match=r"0\.\.15"):
            codec.decode(codes)
