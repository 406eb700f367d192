"""What transformers 5.23 gets wrong, each beside the same call of ours on the same weights."""

import foreign_models
import pytest
import tiny
import torch

from datamodules.tokens import Collate, TokenDataModule
from lightning_modules.checkpoints import load_model
from lightning_modules.converting.run import convert
from lightning_modules.lm.model import LanguageModelConfig
from lightning_modules.lm.training import LanguageModelTraining
from lightning_modules.optim import OptimConfig

DEFECTIVE = "5.23."
PROMPTS = ["calm piano", "a"]


def theirs():
    """Whether it is the release whose defects these are; another may have mended them."""
    import transformers

    return transformers.__version__.startswith(DEFECTIVE)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    folder = tmp_path_factory.mktemp("defects")
    peer = foreign_models.musicgen()
    foreign_models.save(peer, folder / "hf")
    convert(str(folder / "hf"), folder / "ours")
    return peer, load_model(folder / "ours")


def tokens(prompts):
    return foreign_models.tokenizer()(prompts, padding=True, return_tensors="pt")


def test_a_stream_yields_audio(both):
    """Its generate hands the streamer the prompt, and then nothing, not even the end."""
    peer, ours = both

    class Streamer:
        put_calls, ended = 0, False

        def put(self, value):
            self.put_calls += 1

        def end(self):
            self.ended = True

    if theirs():
        streamer = Streamer()
        peer.generate(**tokens(PROMPTS[:1]), max_new_tokens=30, streamer=streamer)
        assert (streamer.put_calls, streamer.ended) == (1, False)
    chunks = list(ours.stream(PROMPTS[0], 0.3, chunk=0.1, ahead=0.1))
    assert [chunk.shape for chunk in chunks] == [(1, 80)] * 3
    assert all(chunk.std() > 1e-3 for chunk in chunks)
    assert not torch.equal(chunks[0], chunks[1])


def test_two_samples_of_a_prompt_are_two_waveforms(both):
    """Its generate folds both samples' rows into the codebooks of one waveform."""
    peer, ours = both
    if theirs():
        wav = peer.generate(**tokens(PROMPTS[:1]), max_new_tokens=30, num_return_sequences=2)
        assert wav.shape[0] == 1
    one, two = ours.generate(PROMPTS[:1] * 2, 0.3, seed=0)
    assert one.shape == two.shape == (1, 240)
    assert not torch.allclose(one, two, atol=1e-3)
    # Each is a whole sample of its own: what it is when it is drawn alone.
    for name, wav in zip("01", (one, two), strict=True):
        (alone,) = ours.generate(PROMPTS[:1], 0.3, seed=0, ids=[name])
        assert torch.equal(wav, alone)
        assert wav.std() > 1e-3


@pytest.mark.parametrize("frames", [30, 50])
def test_durations_are_exact(both, frames):
    """Of n new tokens its delay pattern takes three."""
    peer, ours = both
    if theirs():
        wav = peer.generate(**tokens(PROMPTS), max_new_tokens=frames)
        assert wav.shape[-1] == (frames - 3) * 8
    for wav in ours.generate(PROMPTS, frames / 100):
        assert wav.shape == (1, 8 * frames)


def test_labels_train(tmp_path):
    """Its default config has no decoder_start_token_id, and a step with labels ends in an error."""
    if theirs():
        peer = foreign_models.musicgen(decoder_start_token_id=None)
        labels = tiny.codes(2, 8).transpose(1, 2)
        with pytest.raises((AttributeError, ValueError)):
            peer(**tokens(PROMPTS), labels=labels)
    store = str(tiny.write_store(tmp_path / "store"))
    shape = LanguageModelConfig(dim=32, layers=1, heads=2, codebooks=2, entries=8)
    module = LanguageModelTraining(shape, tiny.TEXT, OptimConfig(), condition_dropout=0.0)
    module.log = module.log_dict = lambda *args, **kwargs: None
    data = TokenDataModule(store, seconds=1.0, batch_size=3, workers=0)
    samples = data.samples("train", 3)
    batch = Collate(10, 5)([samples[number] for number in range(3)])
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        loss = module.training_step(batch, 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_gradients_reach_the_codecs_encoder(both):
    """Its quantizer has no straight-through step: what the decoder says never comes to the encoder."""
    peer, ours = both
    wav = torch.from_numpy(tiny.sine(0.4, tiny.RATE)).T[None].float()
    if theirs():
        made = peer.audio_encoder(wav).audio_values
        (first, *_) = [parameter for parameter in peer.audio_encoder.encoder.parameters() if parameter.requires_grad]
        assert torch.autograd.grad(made.square().mean(), first, allow_unused=True) == (None,)
    made = ours.codec(wav).reconstruction
    (made - wav).square().mean().backward()
    grads = [parameter.grad for parameter in ours.codec.encoder.parameters()]
    assert all(grad is not None and grad.abs().max() > 0 for grad in grads)
    ours.codec.zero_grad()
