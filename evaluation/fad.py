"""Frechet audio distance: how far apart two clouds of embeddings are, each seen as a Gaussian.

FAD = |mu_r - mu_g|^2 + tr(S_r) + tr(S_g) - 2 tr((S_r S_g)^(1/2))   (Kilgour et al., 2019; MusicGen paper, section 3.3)

Shape letters: N embeddings, D their dimensions.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from datamodules.errors import InputError

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """Sums from which mean and covariance follow; they add and subtract exactly as the sets do.

    Attributes:
        count: number of embeddings.
        total: [D], their sum, float64.
        outer: [D, D], the sum of their outer products, float64.
    """

    count: int
    total: Matrix
    outer: Matrix

    @classmethod
    def of(cls, embeddings: Tensor | Matrix) -> "Moments":
        """Moments of [N, D]."""
        values = _as_matrix(embeddings)
        return cls(len(values), values.sum(0), values.T @ values)

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(self.count + other.count, self.total + other.total, self.outer + other.outer)

    def __sub__(self, other: "Moments") -> "Moments":
        return Moments(self.count - other.count, self.total - other.total, self.outer - other.outer)

    def gaussian(self) -> tuple[Matrix, Matrix]:
        """Mean [D] and unbiased covariance [D, D]; InputError with fewer than two embeddings."""
        if self.count < 2:
            raise InputError(f"a covariance needs at least 2 embeddings, not {self.count}; give more or longer clips")
        mean = self.total / self.count
        covariance = (self.outer - self.count * np.outer(mean, mean)) / (self.count - 1)
        return mean, (covariance + covariance.T) / 2


def frechet_distance(mean1: Any, cov1: Any, mean2: Any, cov2: Any) -> float:
    """Frechet distance of two Gaussians (the squared 2-Wasserstein distance).

    The trace of the root is taken as the nuclear norm of A1' A2 with S = A A' from a symmetric eigendecomposition in
    float64: always real, never negative, and exact for covariances without full rank, where ``scipy.linalg.sqrtm``
    of the product is off by 1e-5 or returns imaginary parts. Factors have as many columns as the covariance has rank,
    so few samples in many dimensions are cheap.

    Args:
        mean1: [D], tensor or array.
        cov1: [D, D], symmetric and positive semi-definite.
        mean2: [D].
        cov2: [D, D].

    Returns:
        The distance, at least zero.

    Raises:
        InputError: shapes that do not fit, or values that are not finite.
    """
    mu1, mu2 = _as_array(mean1), _as_array(mean2)
    sigma1, sigma2 = _as_array(cov1), _as_array(cov2)
    dim = mu1.size
    if mu1.shape != (dim,) or mu2.shape != (dim,) or sigma1.shape != (dim, dim) or sigma2.shape != (dim, dim):
        raise InputError(
            f"frechet_distance: means must be [D] and covariances [D, D] of one D, not {mu1.shape}, {sigma1.shape}, "
            f"{mu2.shape}, {sigma2.shape}"
        )
    if not all(np.isfinite(values).all() for values in (mu1, mu2, sigma1, sigma2)):
        raise InputError("frechet_distance: means and covariances must be finite; look for broken clips first")
    cross = _factor(sigma1).T @ _factor(sigma2)
    trace_root = np.linalg.svd(cross, compute_uv=False).sum() if cross.size else 0.0
    offset = mu1 - mu2
    distance = offset @ offset + np.trace(sigma1) + np.trace(sigma2) - 2 * trace_root
    return max(float(distance), 0.0)


def _factor(covariance: Matrix) -> Matrix:
    """A [D, R] with A A' equal to the covariance of rank R; rounding's tiny eigenvalues are left out."""
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    # numpy's own rule for the rank of a matrix; the root would blow rounding of 1e-16 up to 1e-8
    kept = values > max(values[-1], 0.0) * len(values) * np.finfo(np.float64).eps
    return np.asarray(vectors[:, kept] * np.sqrt(values[kept]))


def _as_array(values: Any) -> Matrix:
    if isinstance(values, Tensor):
        values = values.detach().double().cpu().numpy()
    return np.asarray(values, dtype=np.float64)


def _as_matrix(values: Tensor | Matrix) -> Matrix:
    matrix = _as_array(values)
    if matrix.ndim != 2:
        raise InputError(f"embeddings must be [N, D], not {list(matrix.shape)}")
    return matrix


class FrechetAudioDistance(Metric):
    """Frechet audio distance over streams of embeddings; lower is better, zero means equal Gaussians.

    Only float64 moments are kept, so any number of embeddings fits, and processes add theirs up exactly.

    The value depends on the judge that made the embeddings and falls with the number of samples: compare only equal
    judges and equal numbers.

    Args:
        feature_dim: D; taken from the first update where it is None. Give it when some process may see no data.
        kwargs: for ``torchmetrics.Metric``.

    Example:
        >>> metric = FrechetAudioDistance()
        >>> metric.update(torch.zeros(4, 8), real=True)
        >>> metric.update(torch.zeros(4, 8), real=False)
        >>> float(metric.compute())
        0.0
    """

    higher_is_better = False
    is_differentiable = False
    full_state_update = False

    def __init__(self, feature_dim: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.feature_dim: int | None = None
        if feature_dim is not None:
            self._make_states(feature_dim)

    def _make_states(self, dim: int) -> None:
        self.feature_dim = dim
        for side in ("real", "generated"):
            for name, shape in (("count", ()), ("total", (dim,)), ("outer", (dim, dim))):
                zeros = torch.zeros(shape, dtype=torch.float64, device=self.device)
                self.add_state(f"{side}_{name}", zeros, dist_reduce_fx="sum")

    def update(self, embeddings: Tensor, real: bool) -> None:
        """Adds embeddings.

        Args:
            embeddings: [N, D].
            real: True for the reference set, False for generated audio.

        Raises:
            InputError: not [N, D], or not finite.
        """
        if embeddings.dim() != 2:
            raise InputError(f"embeddings must be [N, D], not {list(embeddings.shape)}")
        if self.feature_dim is None:
            self._make_states(embeddings.shape[1])
        if embeddings.shape[1] != self.feature_dim:
            raise InputError(f"embeddings have {embeddings.shape[1]} dimensions, expected {self.feature_dim}")
        if not embeddings.isfinite().all():
            raise InputError("embeddings are not finite; look for broken clips first")
        values = embeddings.detach().double()
        side = "real" if real else "generated"
        getattr(self, f"{side}_count").add_(len(values))
        getattr(self, f"{side}_total").add_(values.sum(0))
        getattr(self, f"{side}_outer").add_(values.T @ values)

    def compute(self) -> Tensor:
        """The distance, float64 scalar; InputError unless both sides have at least two embeddings."""
        if self.feature_dim is None:
            raise InputError("FAD needs embeddings of both real and generated audio; update with both first")
        real, generated = self.moments("real"), self.moments("generated")
        if min(real.count, generated.count) < 2:
            raise InputError(
                f"FAD needs at least 2 embeddings on both sides, not {real.count} real and {generated.count} generated"
            )
        distance = frechet_distance(*real.gaussian(), *generated.gaussian())
        return torch.tensor(distance, dtype=torch.float64, device=self.device)

    def moments(self, side: str) -> Moments:
        """What was summed of ``"real"`` or ``"generated"``."""
        count, total, outer = (getattr(self, f"{side}_{name}") for name in ("count", "total", "outer"))
        return Moments(int(count), total.cpu().numpy(), outer.cpu().numpy())
