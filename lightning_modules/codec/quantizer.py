"""Residual vector quantization with codebooks learned by exponential moving averages (EnCodec, section 3.2).

Shape letters: B items, D latent width, T frames, K codebooks, E entries, M = B * T vectors.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from datamodules.sample_order import derived_seed
from lightning_modules import ranks

_KMEANS_ITERATIONS = 50
_INIT_VECTORS_PER_ENTRY = 2
_DEAD_SHARE = 0.25  # of the mean usage: below, entries stay in local minima; well above, they are never at rest
_CHUNK = 16384  # vectors compared at once: bounds the [M, E] distances
_FRACTION_BITS = 20  # of a random offset, in fixed point


class Quantized(NamedTuple):
    """latents [B, D, T] with a straight-through gradient, codes [B, K, T] int64, commitment loss (scalar)."""

    latents: Tensor
    codes: Tensor
    commitment: Tensor


class Codebook(nn.Module):
    """One codebook: nearest-neighbour search, and statistics that follow the data.

    Buffers ``size`` and ``total`` are moving averages of how many vectors an entry receives a step and of their sum;
    the entry is their quotient.
    """

    entries: Tensor
    size: Tensor
    total: Tensor

    def __init__(self, entries: int, dim: int) -> None:
        super().__init__()
        self.decay = 0.99
        self.register_buffer("entries", torch.zeros(entries, dim))
        self.register_buffer("size", torch.zeros(entries))
        self.register_buffer("total", torch.zeros(entries, dim))

    def nearest(self, vectors: Tensor) -> Tensor:
        """[M, D] -> [M] index of the nearest entry (largest x.e - |e|^2 / 2, which orders like the distance)."""
        half_norms = self.entries.square().sum(1) / 2
        chunks = [torch.addmm(-half_norms, part, self.entries.T).argmax(1) for part in vectors.split(_CHUNK)]
        return torch.cat(chunks)

    def lookup(self, codes: Tensor) -> Tensor:
        """Codes of any shape -> entries with D appended."""
        return F.embedding(codes, self.entries)

    @torch.no_grad()
    def initialise(self, vectors: Tensor, draws: torch.Generator) -> None:
        """k-means over [M, D] vectors; M may be smaller than the number of entries. ``draws`` is on the CPU."""
        count = len(self.entries)
        picks = torch.randperm(len(vectors), generator=draws).to(vectors.device)
        picks = picks.repeat(-(-count // len(vectors)))[:count]
        self.entries.copy_(vectors[picks])
        for _ in range(_KMEANS_ITERATIONS):
            size, total = self.assigned(vectors, self.nearest(vectors))
            self.entries.copy_(torch.where(size[:, None] > 0, total / size.clamp(min=1)[:, None], self.entries))
        self.restart(len(vectors))

    @torch.no_grad()
    def restart(self, vectors: int) -> None:
        """Gives every entry an equal share of so many vectors: none is dead before it had a chance."""
        self.size.fill_(vectors / len(self.entries))
        self.total.copy_(self.entries * self.size[:, None])

    def assigned(self, vectors: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """How many of [M, D] vectors with [M] codes each entry receives, and their sum: [E] and [E, D]."""
        size = torch.zeros_like(self.size).index_add_(0, codes, torch.ones_like(vectors[:, 0]))
        total = torch.zeros_like(self.total).index_add_(0, codes, vectors)
        return size, total

    @torch.no_grad()
    def update(self, size: Tensor, total: Tensor, fresh: Tensor) -> None:
        """Moves the averages towards what each entry received in this step, and revives dead entries.

        An entry is dead when it receives less than a quarter of the mean usage. It becomes a random vector of this
        batch and its statistics restart at the mean usage, so that it is not declared dead again at once. (The original
        compares with a fixed 2 vectors a step, which a small batch never reaches, and leaves the old statistics.)

        Args:
            size: [E], how many vectors.
            total: [E, D], their sum.
            fresh: [E, D], what each entry becomes if it is dead.
        """
        self.size.lerp_(size, 1 - self.decay)
        self.total.lerp_(total, 1 - self.decay)
        mean = self.size.mean()
        dead = self.size < _DEAD_SHARE * mean
        self.size.copy_(torch.where(dead, mean, self.size))
        self.total.copy_(torch.where(dead[:, None], fresh * mean, self.total))
        self.entries.copy_(self.total / self.size[:, None].clamp(min=1e-6))


def spread_positions(count: int, total: Tensor, draws: torch.Generator) -> Tensor:
    """``count`` random positions among ``total`` vectors, on its device; all differ unless there are fewer vectors.

    One offset at random, then equal steps (systematic sampling), in random order: every vector is as likely as every
    other. In integers, for positions must agree between devices of every kind.
    """
    order = torch.randperm(count, generator=draws)
    offset = torch.randint(1 << _FRACTION_BITS, (), generator=draws)
    places = ((order << _FRACTION_BITS) + offset).to(total.device)
    return places * total // (count << _FRACTION_BITS)


class ResidualVectorQuantizer(nn.Module):
    """K codebooks, each coding what the ones before it left over.

    Codebooks are initialised by k-means over latents seen in training. A batch with fewer latents than entries is not
    enough for that: latents are gathered over steps, and pass through unquantized, until there are twice as many as
    entries. ``free_steps`` training steps pass unquantized before that, for an encoder that still moves fast leaves
    codebooks made of its first latents behind.

    In a distributed run every process keeps the codebooks that one process with all their batches would have: what an
    entry receives is added up over processes, and whatever is gathered or drawn comes from the batches of all, in the
    order of ranks. Draws depend on the seed, the step and the codebook alone, so a resumed run repeats them
    (``training_state``). The buffers need no broadcast.

    Args:
        codebooks: K.
        entries: entries of each codebook, E.
        dim: latent width, D.

    Attributes:
        free_steps: training steps before the gathering begins.
        step: passes in training mode so far.
        seed: of all draws.
        counts: [K, E] int64, how often each entry was chosen in the last pass: over all processes in training mode (0
            while latents pass unquantized), of this one in evaluation mode.
    """

    initialised: Tensor
    free_steps: int
    step: int
    seed: int
    counts: Tensor
    _gathered: list[Tensor]

    def __init__(self, codebooks: int, entries: int, dim: int) -> None:
        super().__init__()
        books = [Codebook(entries, dim) for _ in range(codebooks)]
        self.codebooks: Sequence[Codebook] = nn.ModuleList(books)  # type: ignore[assignment]
        self.register_buffer("initialised", torch.zeros((), dtype=torch.bool))
        self.free_steps = self.step = self.seed = 0
        # No buffers: they would be tensors of an exported codec.
        self.counts = torch.zeros(codebooks, entries, dtype=torch.int64)
        self._gathered = []

    def follow(self, decay: float, free_steps: int, seed: int = 0) -> None:
        """Sets how the codebooks follow the encoder in training.

        Args:
            decay: of the moving averages, a step.
            free_steps: training steps that pass unquantized before latents are gathered.
            seed: of the draws that k-means begins with, and of the vectors that dead entries become.
        """
        self.free_steps, self.seed = free_steps, seed
        for codebook in self.codebooks:
            codebook.decay = decay

    def training_state(self) -> dict[str, Any]:
        """What a training that goes on needs beside ``state_dict()``: numbers, and the latents gathered so far [M, D].

        It is the same on every process, and no part of an exported codec. PyTorch reads it without unpickling code.
        """
        width = self.codebooks[0].entries.shape[1]
        gathered = torch.cat(self._gathered) if self._gathered else torch.zeros(0, width)
        return {"step": self.step, "free_steps": self.free_steps, "gathered": gathered}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from a ``training_state()``; after ``follow``, whose free steps have been counted down since."""
        self.step, self.free_steps = state["step"], state["free_steps"]
        self._gathered = [state["gathered"]] if len(state["gathered"]) else []

    def encode(self, latents: Tensor) -> Tensor:
        """[B, D, T] -> codes [B, K, T] int64."""
        batch, dim, frames = latents.shape
        residual = latents.transpose(1, 2).reshape(-1, dim)
        codes = []
        for codebook in self.codebooks:
            codes.append(codebook.nearest(residual))
            residual = residual - codebook.lookup(codes[-1])
        return torch.stack(codes).view(-1, batch, frames).transpose(0, 1)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes [B, K, T] -> [B, D, T], the sum of the entries."""
        parts = [codebook.lookup(codes[:, k]) for k, codebook in enumerate(self.codebooks)]
        return torch.stack(parts).sum(0).transpose(1, 2)

    def forward(self, latents: Tensor) -> Quantized:
        """Quantizes [B, D, T]; in training mode it also updates the codebooks.

        The commitment loss pulls the encoder towards every codebook's choice: the mean over codebooks of the mean
        squared distance between a residual and its (detached) entry. One straight-through step over the whole sum
        carries the decoder's gradient to the encoder. Always in float32: bfloat16 cannot tell near entries apart.
        """
        with torch.autocast(latents.device.type, enabled=False):
            return self._forward(latents.float())

    def _forward(self, latents: Tensor) -> Quantized:
        if self.training and not self._ready(latents):
            none = latents.new_zeros(len(latents), len(self.codebooks), latents.shape[-1], dtype=torch.int64)
            self.counts = torch.zeros_like(self.counts, device=latents.device)
            return Quantized(latents, none, latents.new_zeros(()))
        batch, dim, frames = latents.shape
        residual = latents.transpose(1, 2).reshape(-1, dim)
        quantized = torch.zeros_like(residual)
        residuals, codes, losses = [], [], []
        for codebook in self.codebooks:
            residuals.append(residual.detach())
            codes.append(codebook.nearest(residuals[-1]))
            entry = codebook.lookup(codes[-1])
            losses.append(F.mse_loss(residual, entry))
            quantized = quantized + entry
            residual = residual - entry
        stacked = torch.stack(codes)
        if self.training:
            self._update(residuals, codes)
        else:
            none = torch.zeros_like(self.counts, device=latents.device)
            self.counts = none.scatter_add_(1, stacked, torch.ones_like(stacked))
        quantized = quantized.view(batch, frames, dim).transpose(1, 2)
        straight = latents + (quantized - latents).detach()
        return Quantized(straight, stacked.view(-1, batch, frames).transpose(0, 1), torch.stack(losses).mean())

    @torch.no_grad()
    def _update(self, residuals: Sequence[Tensor], codes: Sequence[Tensor]) -> None:
        """Moves every codebook after all have chosen, so that one message carries what all of them received.

        Args:
            residuals: for each codebook what it coded, [M, D].
            codes: its choices, [M].
        """
        begin, everyone = ranks.place(len(residuals[0]), residuals[0].device)
        parts = []
        for k, (codebook, vectors) in enumerate(zip(self.codebooks, residuals, strict=True)):
            size, total = codebook.assigned(vectors, codes[k])
            # Candidates travel along whether or not an entry is dead: who is, is known only once all has been added up.
            wanted = spread_positions(len(size), everyone, self._draws(k, "revival")) - begin
            mine = (wanted >= 0) & (wanted < len(vectors))
            fresh = vectors[wanted.clamp(0, len(vectors) - 1)].masked_fill(~mine[:, None], 0)
            parts.append(torch.cat([size[:, None], total, fresh], 1))
        received = ranks.add_up(torch.stack(parts))  # [K, E, 1 + 2 D]
        for codebook, part in zip(self.codebooks, received, strict=True):
            total, fresh = part[:, 1:].chunk(2, 1)
            codebook.update(part[:, 0], total, fresh)
        self.counts = received[..., 0].long()

    @torch.no_grad()
    def _ready(self, latents: Tensor) -> bool:
        """Counts the step; whether the codebooks are, or have just been, initialised."""
        self.step += 1
        if self.initialised:
            return True
        if self.free_steps:
            self.free_steps -= 1
            return False
        # Kept as one process with the whole batch would keep them: all processes agree on when there are enough, and
        # the checkpoint that one of them writes serves all.
        self._gathered.append(ranks.gather(latents.transpose(1, 2).flatten(0, 1)))
        if sum(map(len, self._gathered)) < _INIT_VECTORS_PER_ENTRY * self.counts.shape[1]:
            return False
        residual = torch.cat([part.to(latents.device) for part in self._gathered])
        self._gathered.clear()
        for k, codebook in enumerate(self.codebooks):
            codebook.initialise(residual, self._draws(k, "k-means"))
            residual = residual - codebook.lookup(codebook.nearest(residual))
        if ranks.world_size() > 1:
            self._take_from_first(len(residual))
        self.initialised.fill_(True)
        return True

    def _take_from_first(self, vectors: int) -> None:
        """The first process's entries: all have the same but for a GPU, which adds up in no fixed order."""
        entries = ranks.from_first(torch.stack([codebook.entries for codebook in self.codebooks]))
        for codebook, theirs in zip(self.codebooks, entries, strict=True):
            codebook.entries.copy_(theirs)
            codebook.restart(vectors)

    def _draws(self, codebook: int, purpose: str) -> torch.Generator:
        return torch.Generator().manual_seed(derived_seed(self.seed, self.step, codebook, purpose))
