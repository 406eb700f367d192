"""A converted language model beside transformers' own on the same checkpoint: logits, tokens, codec.

Shape letters: B texts, K codebooks, T frames, S steps, V entries, L places of a condition, D width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datamodules.hub import quiet_transformers
from lightning_modules.codec.contract import Codec
from lightning_modules.codec.stereo import StereoCodec
from lightning_modules.conditioning.conditions import Conditions
from lightning_modules.generation.guidance import branches
from lightning_modules.generation.model import MusicModel

# Of different lengths, so that one of them is padded.
TEXTS = ("80s pop track with bassy drums and a bright synthesizer", "a slow waltz")
GUIDANCE = 3.0
_BOUND = 1e-4  # of a logit, where logits have a deviation of one
_CLEAR = 0.9  # of the greedy codes must be told apart clearly enough to be compared


@dataclass(frozen=True)
class Finding:
    """One line of the comparison.

    Attributes:
        what: was compared.
        found: in words.
        wanted: in words.
        good: whether they agree.
    """

    what: str
    found: str
    wanted: str
    good: bool


class Peer:
    """transformers' model, asked for the logits of whole sequences.

    Args:
        folder: with config.json and weights.
        model: the same model converted, whose conditions both hear.
    """

    def __init__(self, folder: str | Path, model: MusicModel) -> None:
        from transformers import AutoModelForTextToWaveform

        with quiet_transformers():
            self.model: Any = AutoModelForTextToWaveform.from_pretrained(
                folder, dtype=torch.float32, trust_remote_code=False
            ).eval()
        self.prefix = "melody" in model.lm.config.prefix

    def conditional(self, sequence: Tensor, conditions: Conditions, tokens: tuple[Tensor, Tensor]) -> Tensor:
        """Logits [B, K, S, V] of a sequence [B, K, S] by the model's own front door: token ids, mask and chroma."""
        given = {"input_ids": tokens[0], "attention_mask": tokens[1]}
        if self.prefix:
            given["input_features"] = conditions["melody"].embeddings
        made = self.model(**given, decoder_input_ids=sequence.flatten(0, 1)).logits
        return self._cut(made, sequence)

    def null(self, sequence: Tensor, conditions: Conditions) -> Tensor:
        """Logits [B, K, S, V] without any condition, as generation decodes them beside the others."""
        places = conditions["text"].mask.shape[1]
        states = torch.zeros(len(sequence), places, self.model.decoder.config.hidden_size)
        ids = sequence.flatten(0, 1)
        if self.prefix:
            melody = self.model.audio_enc_to_dec_proj(conditions.null()["melody"].embeddings)
            made = self.model.decoder(input_ids=ids, encoder_hidden_states=torch.cat([melody, states], 1)).logits
        else:
            nothing = torch.zeros(len(sequence), places, dtype=torch.int64)
            made = self.model.decoder(
                input_ids=ids, encoder_hidden_states=states, encoder_attention_mask=nothing
            ).logits
        return self._cut(made, sequence)

    @staticmethod
    def _cut(logits: Tensor, sequence: Tensor) -> Tensor:
        """[B K, L + S, V] -> [B, K, S, V]: without a prefix's places."""
        batch, codebooks, steps = sequence.shape
        return logits[:, -steps:].unflatten(0, (batch, codebooks))


@torch.no_grad()
def compare(
    folder: str | Path, model: MusicModel, frames: int, greedy: int, tell: Callable[[str], None] = lambda line: None
) -> list[Finding]:
    """Compares.

    Args:
        folder: the checkpoint as transformers reads it.
        model: the same, converted.
        frames: random codes to force upon both.
        greedy: frames to decode.
        tell: told what is being done.

    Returns:
        What was found.
    """
    tell("loading transformers' model")
    peer = Peer(folder, model)
    generator = torch.Generator().manual_seed(0)
    conditions, tokens = _conditions(model, generator)
    config = model.lm.config
    codes = torch.randint(config.entries, (len(TEXTS), config.codebooks, frames), generator=generator)
    sequence = model.lm.pattern.build(codes, trim=True)[..., :-1]
    tell(f"{frames:,} frames of random codes through both")
    theirs = peer.conditional(sequence, conditions, tokens)
    context = model.lm.context(conditions)
    ours = model.lm(sequence, context)
    bound = _BOUND * max(1.0, float(theirs.std()))
    error = float((ours - theirs).abs().max())
    findings = [
        _at_most(f"logits, {len(TEXTS)} texts, {frames:,} frames at once", error, bound),
        _at_most("the same without conditions", _null_error(model, peer, sequence, conditions), bound),
        _at_most("the same step by step", _step_error(model, sequence, conditions, theirs), bound),
    ]
    tell(f"{greedy} frames decoded with guidance {GUIDANCE:g}")
    findings.append(_greedy(model, peer, conditions, tokens, greedy, 10 * max(error, 1e-6)))
    return findings + _codec(model.codec, peer.model, generator)


def _conditions(model: MusicModel, generator: torch.Generator) -> tuple[Conditions, tuple[Tensor, Tensor]]:
    """Both models' conditions: ours, with random melodies where it hears any, and the ids and mask of the texts."""
    encoder, classes = model.conditioners.text, None
    tokens = encoder.tokenizer(list(TEXTS), padding=True, return_tensors="pt")  # type: ignore[union-attr,operator]
    if model.conditioners.melody is not None:
        frames = model.conditioners.melody.config.frames
        classes = torch.randint(12, (len(TEXTS), frames), generator=generator).to(torch.uint8)
    return model.conditioners(TEXTS, classes), (tokens["input_ids"], tokens["attention_mask"])


def _null_error(model: MusicModel, peer: Peer, sequence: Tensor, conditions: Conditions) -> float:
    ours = model.lm(sequence, model.lm.context(conditions.null()))
    return float((ours - peer.null(sequence, conditions)).abs().max())


def _step_error(model: MusicModel, sequence: Tensor, conditions: Conditions, theirs: Tensor) -> float:
    """Of the decoding engine."""
    from lightning_modules.generation.decoder import Decoder, Request

    alone = branches(conditions, model.lm.config.conditions, 1.0)
    request = Request(Decoder(model.lm), alone, len(sequence), sequence.shape[2])
    worst = 0.0
    for step, codes in enumerate(sequence.unbind(2)):
        ours = request.logits(codes, request.prefix + step + 1)
        worst = max(worst, float((ours - theirs[:, :, step]).abs().max()))
    return worst


def _greedy(
    model: MusicModel, peer: Peer, conditions: Conditions, tokens: tuple[Tensor, Tensor], frames: int, gap: float
) -> Finding:
    """Our greedy codes: each the peer's likeliest, wherever it prefers one by more than ``gap``."""
    from lightning_modules.generation.decoder import Decoder
    from lightning_modules.generation.engine import generate_codes
    from lightning_modules.generation.sampling import Sampling

    versions = branches(conditions, model.lm.config.conditions, GUIDANCE)
    codes = generate_codes(Decoder(model.lm), versions, frames, [0] * len(TEXTS), Sampling(greedy=True))
    sequence = model.lm.pattern.build(codes)[..., :-1]
    null = peer.null(sequence, conditions)
    guided = null + GUIDANCE * (peer.conditional(sequence, conditions, tokens) - null)
    logits, _ = model.lm.pattern.revert(guided, frames, first_step=1)
    best, choice = logits.topk(2, -1)
    clear = best[..., 0] - best[..., 1] > gap
    wrong = int((clear & (choice[..., 0] != codes)).sum())
    seen = f"{codes.numel():,} decoded, {len(codes.unique())} different"
    found = f"{wrong} unlike of {int(clear.sum()):,} clear ones ({seen})"
    enough = float(clear.double().mean()) >= _CLEAR  # nothing would be unlike where nothing is compared
    wanted = f"0 unlike, {_CLEAR:.0%} clear"
    return Finding(f"greedy codes, guidance {GUIDANCE:g}", found, wanted, wrong == 0 and enough)


def _codec(codec: Codec, theirs: Any, generator: torch.Generator) -> list[Finding]:
    """Two seconds of noise that swells, encoded and decoded by both."""
    mono = codec.mono if isinstance(codec, StereoCodec) else codec
    samples = 2 * mono.sample_rate
    wav = torch.randn(1, mono.channels, samples, generator=generator) * torch.linspace(0, 0.3, samples)
    peer = theirs.audio_encoder
    wanted = peer.encode(wav, bandwidth=peer.config.target_bandwidths[-1]).audio_codes[0]
    codes = mono.encode(wav)
    unlike = int((codes != wanted).sum())
    error = float((mono.decode(wanted) - peer.decode(wanted[None], [None]).audio_values).abs().max())
    ties = max(1, codes.numel() // 1000)
    return [
        Finding("codes of 2 s of noise", f"{unlike} unlike of {codes.numel()}", f"at most {ties} ties", unlike <= ties),
        _at_most("the same codes decoded", error, 1e-4),
    ]


def _at_most(what: str, error: float, bound: float) -> Finding:
    return Finding(what, f"{error:.1e}", f"at most {bound:.1e}", error <= bound)
