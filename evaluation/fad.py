"""Frechet audio distance: how far apart two clouds of embeddings are, each seen as a Gaussian.

FAD = |mu_r - mu_g|^2 + tr(S_r) + tr(S_g) - 2 tr((S_r S_g)^(1/2))   (Kilgour et al., 2019; MusicGen paper, section 3.3)

Shape letters: N and M embeddings, D their dimensions, R the rank of a covariance.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import rank_zero_warn

from datamodules.errors import InputError
from evaluation.uncertainty import few_samples_warning

Matrix = NDArray[np.float64]
# The most that rounding may move a distance found the quick way, relative to it. This bound is for the worst case:
# with pairs of the covariances of fadtk's FMA-Pop, bounds are 1e-10 to 2e-7 and what is off is under 2e-12.
_EXACT = 1e-7
# A Cholesky pivot this small beside the largest is rounding.
_SINGULAR = 1e-11


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
        values = as_embeddings(embeddings)
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

    The trace of the root is the sum of the roots of the eigenvalues of L' S2 L with S1 = L L' (Cholesky), a symmetric
    matrix: always real, never negative, all in float64. Where rounding could show in the distance, as with covariances
    without full rank, it is the nuclear norm of A1' A2 with S = A A' instead, A having as many columns as the
    covariance has rank: ``scipy.linalg.sqrtm`` of the product is off by 1e-5 there, or has imaginary parts.

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
    mu1, sigma1 = _as_gaussian(mean1, cov1)
    mu2, sigma2 = _as_gaussian(mean2, cov2)
    if mu1.shape != mu2.shape:
        raise InputError(f"frechet_distance: both sides need one number of dimensions, not {mu1.size} and {mu2.size}")
    offset = mu1 - mu2
    apart = float(offset @ offset + np.trace(sigma1) + np.trace(sigma2))
    trace_root, error = _quick_trace_root(sigma1, sigma2)
    distance = apart - 2 * trace_root
    if not 2 * error <= _EXACT * distance:
        distance = apart - 2 * _nuclear_norm(_factor(sigma1).T @ _factor(sigma2))
    return max(distance, 0.0)


def distance_of_embeddings(reference: Tensor | Matrix, generated: Tensor | Matrix) -> float:
    """Frechet distance of two sets at hand, exact and by the cheaper way.

    With fewer embeddings than dimensions on either side no [D, D] matrix is made: the trace of the root is the nuclear
    norm of X Y' / sqrt((N - 1) (M - 1)), X and Y being the centred sets.

    Args:
        reference: [N, D].
        generated: [M, D].

    Returns:
        The distance of their Gaussians, at least zero.

    Raises:
        InputError: fewer than two embeddings on a side, unequal D, or values that are not finite.
    """
    (mean1, x), (mean2, y) = _centred(reference), _centred(generated)
    if mean1.shape != mean2.shape:
        raise InputError(f"both sides need one number of dimensions, not {mean1.size} and {mean2.size}")
    n, m = len(x) - 1, len(y) - 1
    if min(n, m) >= mean1.size:
        return frechet_distance(mean1, x.T @ x / n, mean2, y.T @ y / m)
    offset = mean1 - mean2
    apart = offset @ offset + np.vdot(x, x) / n + np.vdot(y, y) / m
    return max(float(apart - 2 * _nuclear_norm(_condensed(x) @ _condensed(y).T) / math.sqrt(n * m)), 0.0)


class ReferenceGaussian:
    """A reference that many sets are measured against: its factor is computed once.

    For FAD of single clips (Gui et al., 2024, arXiv 2311.01616), whose handful of windows costs milliseconds, and for
    the draws of FAD-infinity. Clips have fewer windows than dimensions, so their values rank clips with equally many
    windows against one reference, and do not compare with the FAD of a set.

    Args:
        mean: [D], tensor or array.
        covariance: [D, D], symmetric and positive semi-definite.

    Attributes:
        mean: [D].
        trace: of the covariance.
        factor: [D, R], A with A A' equal to the covariance, which has rank R.

    Raises:
        InputError: shapes that do not fit, or values that are not finite.
    """

    def __init__(self, mean: Any, covariance: Any) -> None:
        self.mean, sigma = _as_gaussian(mean, covariance)
        self.trace = float(np.trace(sigma))
        self.factor = _factor(sigma)

    def distance(self, embeddings: Tensor | Matrix) -> float:
        """Frechet distance to a set, such as one clip's windows, exact for any number of them.

        Args:
            embeddings: [N, D].

        Returns:
            The distance, at least zero: singular values of [min(N, D), D] @ [D, R].

        Raises:
            InputError: fewer than two embeddings, another D, or values that are not finite.
        """
        mean, centred = _centred(embeddings)
        if mean.shape != self.mean.shape:
            raise InputError(f"embeddings have {mean.size} dimensions, those of the reference {self.mean.size}")
        offset, free = mean - self.mean, len(centred) - 1
        trace_root = _nuclear_norm(_condensed(centred) @ self.factor) / math.sqrt(free)
        return max(float(offset @ offset + self.trace + np.vdot(centred, centred) / free - 2 * trace_root), 0.0)


def _quick_trace_root(sigma1: Matrix, sigma2: Matrix) -> tuple[float, float]:
    """tr((S1 S2)^(1/2)) and the most that rounding moved it; that is infinite where S1 or S2 lacks full rank."""
    try:
        lowers = np.linalg.cholesky(sigma1), np.linalg.cholesky(sigma2)
    except np.linalg.LinAlgError:
        return 0.0, math.inf
    pivots = [lower.diagonal() ** 2 for lower in lowers]
    if any(some.min() < _SINGULAR * some.max() for some in pivots):
        return 0.0, math.inf
    values = np.linalg.eigvalsh(lowers[0].T @ sigma2 @ lowers[0])
    if values[0] <= 0:
        return 0.0, math.inf
    roots = np.sqrt(values)
    # An eigenvalue is off by rounding of the matrices, whose norms these are; its root by that / (2 root).
    rounding = np.finfo(np.float64).eps * np.linalg.norm(sigma1) * np.linalg.norm(sigma2)
    return float(roots.sum()), float(rounding * (0.5 / roots).sum())


def _factor(covariance: Matrix) -> Matrix:
    """A [D, R] with A A' equal to the covariance of rank R; rounding's tiny eigenvalues are left out."""
    values, vectors = np.linalg.eigh(covariance)
    # numpy's own rule for the rank of a matrix; the root would blow rounding of 1e-16 up to 1e-8
    kept = values > max(values[-1], 0.0) * len(values) * np.finfo(np.float64).eps
    return np.asarray(vectors[:, kept] * np.sqrt(values[kept]))


def _condensed(centred: Matrix) -> Matrix:
    """[min(N, D), D] with the same product of the transpose with itself, so with the same nuclear norms."""
    return np.asarray(np.linalg.qr(centred, mode="r")) if len(centred) > centred.shape[1] else centred


def _nuclear_norm(matrix: Matrix) -> float:
    """The sum of singular values."""
    return float(np.linalg.svd(matrix, compute_uv=False).sum()) if matrix.size else 0.0


def _centred(embeddings: Tensor | Matrix) -> tuple[Matrix, Matrix]:
    """Mean [D] of a set, and the set without it."""
    values = as_embeddings(embeddings)
    if len(values) < 2:
        raise InputError(f"a covariance needs at least 2 embeddings, not {len(values)}; give more or longer clips")
    mean = values.mean(0)
    return mean, values - mean


def _as_gaussian(mean: Any, covariance: Any) -> tuple[Matrix, Matrix]:
    mu, sigma = _as_array(mean), _as_array(covariance)
    if mu.ndim != 1 or not mu.size or sigma.shape != (mu.size, mu.size):
        raise InputError(f"a Gaussian has a mean [D] and a covariance [D, D], not {mu.shape} and {sigma.shape}")
    if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise InputError("means and covariances must be finite; look for broken clips first")
    return mu, (sigma + sigma.T) / 2


def _as_array(values: Any) -> Matrix:
    if isinstance(values, Tensor):
        values = values.detach().double().cpu().numpy()
    return np.asarray(values, dtype=np.float64)


def as_embeddings(values: Tensor | Matrix) -> Matrix:
    """Embeddings [N, D] in float64.

    Raises:
        InputError: not [N, D], or values that are not finite.
    """
    matrix = _as_array(values)
    if matrix.ndim != 2:
        raise InputError(f"embeddings must be [N, D], not {list(matrix.shape)}")
    if not np.isfinite(matrix).all():
        raise InputError("embeddings are not finite; look for broken clips first")
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
        """The distance, float64 scalar; a warning where either side has fewer than 2 D embeddings.

        Raises:
            InputError: fewer than two embeddings on a side.
        """
        if self.feature_dim is None:
            raise InputError("FAD needs embeddings of both real and generated audio; update with both first")
        real, generated = self.moments("real"), self.moments("generated")
        if min(real.count, generated.count) < 2:
            raise InputError(
                f"FAD needs at least 2 embeddings on both sides, not {real.count} real and {generated.count} generated"
            )
        if warning := few_samples_warning(min(real.count, generated.count), self.feature_dim):
            rank_zero_warn(warning)
        distance = frechet_distance(*real.gaussian(), *generated.gaussian())
        return torch.tensor(distance, dtype=torch.float64, device=self.device)

    def moments(self, side: str) -> Moments:
        """What was summed of ``"real"`` or ``"generated"``."""
        count, total, outer = (getattr(self, f"{side}_{name}") for name in ("count", "total", "outer"))
        return Moments(int(count), total.cpu().numpy(), outer.cpu().numpy())
