"""Residual vector quantization with codebooks learned by exponential moving averages (EnCodec, section 3.2).

Shape letters: B items, D latent width, T frames, K codebooks, E entries, M = B * T vectors.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_KMEANS_ITERATIONS = 50
_INIT_VECTORS_PER_ENTRY = 2
_DEAD_SHARE = 0.05  # of the mean usage
_CHUNK = 16384  # vectors compared at once: bounds the [M, E] distances


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
    def initialise(self, vectors: Tensor) -> None:
        """k-means over [M, D] vectors; M may be smaller than the number of entries."""
        count = len(self.entries)
        picks = torch.randperm(len(vectors), device=vectors.device)
        picks = picks.repeat(-(-count // len(vectors)))[:count]
        self.entries.copy_(vectors[picks])
        for _ in range(_KMEANS_ITERATIONS):
            size, total = self._assign(vectors, self.nearest(vectors))
            self.entries.copy_(torch.where(size[:, None] > 0, total / size.clamp(min=1)[:, None], self.entries))
        # Every entry starts with the mean usage: none is dead before it had a chance.
        self.size.fill_(len(vectors) / count)
        self.total.copy_(self.entries * self.size[:, None])

    @torch.no_grad()
    def update(self, vectors: Tensor, codes: Tensor) -> None:
        """Moves the statistics towards [M, D] vectors assigned to [M] codes, and revives dead entries.

        An entry is dead when it receives less than a twentieth of the mean usage. It becomes a random vector of this
        batch and its statistics restart at the mean usage, so that it is not declared dead again at once. (The original
        compares with a fixed 2 vectors a step, which a small batch never reaches, and leaves the old statistics.)
        """
        size, total = self._assign(vectors, codes)
        self.size.lerp_(size, 1 - self.decay)
        self.total.lerp_(total, 1 - self.decay)
        mean = self.size.mean()
        dead = self.size < _DEAD_SHARE * mean
        fresh = vectors[torch.randint(len(vectors), (len(self.entries),), device=vectors.device)]
        self.size.copy_(torch.where(dead, mean, self.size))
        self.total.copy_(torch.where(dead[:, None], fresh * mean, self.total))
        self.entries.copy_(self.total / self.size[:, None].clamp(min=1e-6))

    def _assign(self, vectors: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        size = torch.zeros_like(self.size).index_add_(0, codes, torch.ones_like(vectors[:, 0]))
        total = torch.zeros_like(self.total).index_add_(0, codes, vectors)
        return size, total


class ResidualVectorQuantizer(nn.Module):
    """K codebooks, each coding what the ones before it left over.

    Codebooks are initialised by k-means over latents seen in training. A batch with fewer latents than entries is not
    enough for that: latents are gathered over steps, and pass through unquantized, until there are twice as many as
    entries. ``free_steps`` training steps pass unquantized before that, for an encoder that still moves fast leaves
    codebooks made of its first latents behind.

    Args:
        codebooks: K.
        entries: entries of each codebook, E.
        dim: latent width, D.

    Attributes:
        free_steps: training steps before the gathering begins.
    """

    initialised: Tensor
    free_steps: int
    _gathered: list[Tensor]

    def __init__(self, codebooks: int, entries: int, dim: int) -> None:
        super().__init__()
        books = [Codebook(entries, dim) for _ in range(codebooks)]
        self.codebooks: Sequence[Codebook] = nn.ModuleList(books)  # type: ignore[assignment]
        self.register_buffer("initialised", torch.zeros((), dtype=torch.bool))
        self.free_steps = 0
        self._wanted = _INIT_VECTORS_PER_ENTRY * entries
        self._gathered = []

    def follow(self, decay: float, free_steps: int) -> None:
        """Sets how fast the codebooks follow the encoder in training: the averages' decay, and when they begin."""
        self.free_steps = free_steps
        for codebook in self.codebooks:
            codebook.decay = decay

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
            return Quantized(latents, none, latents.new_zeros(()))
        batch, dim, frames = latents.shape
        residual = latents.transpose(1, 2).reshape(-1, dim)
        quantized = torch.zeros_like(residual)
        codes, losses = [], []
        for codebook in self.codebooks:
            chosen = codebook.nearest(residual.detach())
            entry = codebook.lookup(chosen)
            if self.training:
                codebook.update(residual.detach(), chosen)
            losses.append(F.mse_loss(residual, entry))
            codes.append(chosen)
            quantized = quantized + entry
            residual = residual - entry
        quantized = quantized.view(batch, frames, dim).transpose(1, 2)
        straight = latents + (quantized - latents).detach()
        stacked = torch.stack(codes).view(-1, batch, frames).transpose(0, 1)
        return Quantized(straight, stacked, torch.stack(losses).mean())

    @torch.no_grad()
    def _ready(self, latents: Tensor) -> bool:
        if self.initialised:
            return True
        if self.free_steps:
            self.free_steps -= 1
            return False
        self._gathered.append(latents.detach().transpose(1, 2).flatten(0, 1))
        if sum(map(len, self._gathered)) < self._wanted:
            return False
        residual = torch.cat(self._gathered)
        self._gathered.clear()
        for codebook in self.codebooks:
            codebook.initialise(residual)
            residual = residual - codebook.lookup(codebook.nearest(residual))
        self.initialised.fill_(True)
        return True
