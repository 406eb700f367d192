"""Memory of one device, part by part.

Weights, gradients, optimiser state and average are counted exactly, activations as the tensors that autograd keeps,
which `mgl bench plan` compares with what it does keep. Working memory of kernels, the allocator's gaps and the
buffers of communication libraries are not counted: plans leave a tenth of the device free for them.

Shape letters: S steps, D width, H heads, F width of feed-forward, L places of a condition, K codebooks, V entries.
"""

from dataclasses import asdict, dataclass
from typing import Literal

from experiments.planning.subject import PRECISIONS, Subject

Sharding = Literal["ddp", "node", "full"]
FREE = 0.1  # share of a device's memory that a plan leaves free
_FLOAT = 4
# Bytes of optimiser state a parameter: two moments; D-Adaptation a running sum besides.
_STATE = {"adamw": 8, "dadaptation": 12}
# And for the time of its step: AdamW takes roots of all second moments at once, D-Adaptation goes tensor by tensor.
_SCRATCH = {"adamw": 4, "dadaptation": 0}


@dataclass(frozen=True)
class Memory:
    """Bytes of one device.

    Attributes:
        weights: in float32, a trained text encoder's too; those beside adapters in bfloat16 where it multiplies them.
        gradients: in float32.
        optimiser: its state.
        average: the averaged weights.
        copies: 16-bit copies of weights: those that mixed precision keeps, or with sharding those that are gathered at
            a time.
        activations: what the blocks keep for the way back, for one micro-batch.
        loss: the logits, their log-probabilities in float32, and one codebook's logits in float32: at the end of the
            forward pass. Backward takes less: gradients come one codebook after the other.
        text_encoder: a frozen one's weights, or what a trained one keeps for the way back.
        codec: its weights, for the samples in the log; tokens need none.
        scratch: of the optimiser's step.
    """

    weights: int
    gradients: int
    optimiser: int
    average: int
    copies: int
    activations: int
    loss: int
    text_encoder: int
    codec: int
    scratch: int

    @property
    def total(self) -> int:
        """At its highest: what is for the way back is gone when the optimiser takes its scratch."""
        back = self.copies + self.activations + self.loss
        return sum(asdict(self).values()) - min(back, self.scratch)


def memory(subject: Subject, batch: int, *, shards: int = 1, sharding: Sharding = "ddp", recompute: int = 0) -> Memory:
    """Of ``batch`` crops at once on one of the devices that ``shards`` parts of the state are dealt to."""
    counts, kept = subject.counts, PRECISIONS[subject.precision]
    state = counts.trained * _FLOAT // shards
    copies = kept * counts.linear if kept < _FLOAT else 0
    if sharding != "ddp":
        # Two blocks, the one at work and the next, and in float32 what belongs to none, of which mixed precision has
        # copies besides; gradients of as much before they go.
        rest = counts.trained - subject.lm.layers * counts.block
        copies = (kept + _FLOAT) * 2 * counts.block + (2 * _FLOAT + kept * (kept < _FLOAT)) * rest
    frozen = subject.text is not None and not subject.text.trained
    encoder = counts.text_encoder * _FLOAT if frozen else batch * encoder_activations(subject) + encoder_places(subject)
    return Memory(
        weights=state + subject.frozen,
        gradients=state,
        optimiser=counts.trained * _STATE[subject.algorithm] // shards,
        average=state,
        copies=copies,
        activations=batch * activations(subject, recompute),
        loss=batch * loss_peak(subject),
        text_encoder=encoder,
        codec=counts.codec * _FLOAT,
        scratch=counts.trained * _SCRATCH[subject.algorithm] // shards,
    )


def activations(subject: Subject, recompute: int = 0) -> int:
    """Bytes that the transformer keeps of one crop; with ``recompute`` of so many blocks at a time."""
    lm, kept = subject.lm, PRECISIONS[subject.precision]
    length = subject.steps + sum(subject.places[name] for name in lm.prefix)
    stream = _FLOAT * length * lm.dim  # the residual stream is in float32
    blocks = lm.layers * block_activations(subject)
    if recompute:
        parts = -(-lm.layers // recompute)
        blocks = parts * stream + min(recompute, lm.layers) * block_activations(subject)
    if subject.lora:
        # Frozen heads and projections keep nothing of what they multiply, and so only attention keeps conditions.
        heard = sum(subject.places[name] for name in lm.cross)
        return blocks + stream + 2 * _FLOAT * length + kept * heard * lm.dim
    conditions = sum(
        kept * place * subject.dims[name] + (kept + 1) * place * lm.dim for name, place in subject.places.items()
    )
    return blocks + stream + 2 * _FLOAT * length + kept * subject.steps * lm.dim + conditions


def block_activations(subject: Subject) -> int:
    """Bytes that a block keeps of one crop, with attention that keeps no square (flash, memory-efficient)."""
    lm, kept = subject.lm, PRECISIONS[subject.precision]
    length = subject.steps + sum(subject.places[name] for name in lm.prefix)
    heard = sum(subject.places[name] for name in lm.cross)
    attentions = 1 + bool(lm.cross)
    # Norms: the stream that they read, mean and deviation of each place, and what they write.
    norms = (attentions + 1) * length * ((_FLOAT + kept) * lm.dim + 2 * _FLOAT)
    # Attention: queries, keys, values, what it mixes of them, and the softmaxes' normalisers.
    own = length * (4 * kept * lm.dim + _FLOAT * lm.heads)
    cross = length * (2 * kept * lm.dim + _FLOAT * lm.heads) + 2 * kept * heard * lm.dim if lm.cross else 0
    # Adapters: what their first matrix makes of an input, of each layer.
    adapters = kept * subject.lora * ((4 + 2 * bool(lm.cross)) * length + bool(lm.cross) * heard)
    # Feed-forward: before and after the GELU.
    return norms + own + cross + adapters + 2 * kept * length * lm.ff_ratio * lm.dim


def loss_kept(subject: Subject) -> int:
    """Bytes that the loss keeps of one crop: log-probabilities in float32, the sequence, and the targets."""
    books = subject.lm.codebooks * subject.steps
    return _FLOAT * books * subject.lm.entries + 2 * 8 * books


def loss_peak(subject: Subject) -> int:
    """Bytes of one crop's logits and loss at their highest: what the loss keeps, the logits, and a codebook in float32.

    On the way back there are fewer: the log-probabilities go as gradients come, which are of the logits' precision.
    """
    codebook = subject.lm.entries * subject.steps
    return loss_kept(subject) + (PRECISIONS[subject.precision] * subject.lm.codebooks + _FLOAT) * codebook


def encoder_activations(subject: Subject) -> int:
    """Bytes that a text encoder which learns along keeps of one crop: a T5 with gated feed-forward of twice its width.

    As counted in transformers 5.23, where its attention keeps the square: the bias that it adds to it learns too.
    """
    text = subject.text
    if text is None or not text.trained:
        return 0
    widths = 68 if PRECISIONS[subject.precision] < _FLOAT else 96
    layer = widths * text.tokens * text.dim + _FLOAT * text.heads * text.tokens**2
    return text.layers * layer + 2 * _FLOAT * text.tokens * text.dim


def encoder_places(subject: Subject) -> int:
    """Bytes of the places between tokens that such an encoder's attention keeps, once for all crops."""
    text = subject.text
    return 8 * text.tokens**2 if text is not None and text.trained else 0
