"""
How well t fits x: scale and backgrounds, which are linear and eliminated, and the metrics.

    chi^2 = sum_dp w_dp (c t_dp + b_d - x_dp)^2,      w = 1/sigma^2

For given t the best c and b are in closed form: with the weighted means over the pixels of one background taken off t
and x, c = sum w t x/sum w t^2, and b = mean x - c mean t (one background: pixels of all disks; else one a disk; the
scale one of all, or one a disk).  The derivatives of what is left, with c and b moving along, are c dt less its own
means and less its part along t (Kaufman 1975, BIT 15, 49): their product with the residuals is the exact gradient.

Metrics: XCorrelation 1 - r, Pearson's r, by weights that make chi^2 = 1 - r^2; chi2 with sigma^2 = counts; chi2_const
and chi2_multibackground with the variance of the detector; chi2_larbed and chi2_larbed_multibackground with a variance
map.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Metric:
    """
    A metric: whose variance it takes (``none``, ``counts``, ``detector`` or ``map``), and whether each disk has its own
    background.
    """

    variance: str
    multibackground: bool


METRICS = {
    "XCorrelation": Metric("none", False),
    "chi2": Metric("counts", False),
    "chi2_const": Metric("detector", False),
    "chi2_multibackground": Metric("detector", True),
    "chi2_larbed": Metric("map", False),
    "chi2_larbed_multibackground": Metric("map", True),
}


@dataclass(frozen=True)
class Linear:
    """The scales c and backgrounds b (d,), how many of them are free, n, the residuals sqrt(w) (c t + b - x)."""

    scale: np.ndarray
    background: np.ndarray
    n: int
    residuals: np.ndarray


@dataclass(frozen=True)
class Comparison:
    """
    What t is compared with.

    Attributes
    ----------
    data : ndarray, shape (d, n)
        x.
    weight : ndarray, shape (d, n)
        w, 0 where a pixel is masked.
    multibackground, multiscale : bool
        Whether each disk has its own.
    """

    data: np.ndarray
    weight: np.ndarray
    multibackground: bool = True
    multiscale: bool = False

    def eliminate(self, simulated: np.ndarray) -> Linear:
        """c and b for t (d, n)."""
        t, x = self._centred(simulated), self._centred(self.data)
        square, product = (
            self._sums(self.weight * t * t, self.multiscale),
            self._sums(self.weight * t * x, self.multiscale),
        )
        c = product / np.where(square > 0.0, square, 1.0)
        b = self._mean(self.data) - c * self._mean(simulated)
        n_disks = len(self.data)
        n = (n_disks if self.multiscale else 1) + (n_disks if self.multibackground else 1)
        return Linear(c[:, 0], np.broadcast_to(b, (n_disks, 1))[:, 0], n, np.sqrt(self.weight) * (c * t - x))

    def projected(self, simulated: np.ndarray, derivatives: np.ndarray) -> np.ndarray:
        """The derivatives of the residuals, c and b moving along, of those of t (p, d, n)."""
        c = self.eliminate(simulated).scale[:, None]
        t, root = self._centred(simulated), np.sqrt(self.weight)
        square = self._sums(self.weight * t * t, self.multiscale)
        found = np.empty_like(derivatives)
        for k, one in enumerate(derivatives):
            centred = self._centred(one)
            along = self._sums(self.weight * t * centred, self.multiscale) / np.where(square > 0.0, square, 1.0)
            found[k] = root * c * (centred - along * t)
        return found

    def linear_columns(self, simulated: np.ndarray) -> np.ndarray:
        """The derivatives of the residuals by c and b, shape (n linear, d, n)."""
        root, n_disks = np.sqrt(self.weight), len(self.data)
        each = np.eye(n_disks)[:, :, None]
        scales = each * (root * simulated) if self.multiscale else (root * simulated)[None]
        backgrounds = each * root if self.multibackground else root[None]
        return np.concatenate([scales, backgrounds])

    def correlations(self, simulated: np.ndarray) -> np.ndarray:
        """Pearson's r of each disk (d,), unweighted, over the unmasked pixels; NaN where there are none."""
        used = (self.weight > 0.0).astype(float)
        n = np.maximum(used.sum(axis=1, keepdims=True), 1.0)
        t, x = (one - (used * one).sum(axis=1, keepdims=True) / n for one in (simulated, self.data))
        power = (used * t * t).sum(axis=1) * (used * x * x).sum(axis=1)
        return (used * t * x).sum(axis=1) / np.sqrt(np.where(power > 0.0, power, np.nan))

    def _sums(self, values: np.ndarray, by_disk: bool) -> np.ndarray:
        """Of each disk or of all, shape (d, 1)."""
        sums = values.sum(axis=1, keepdims=True)
        return sums if by_disk else np.full_like(sums, sums.sum())

    def _mean(self, values: np.ndarray) -> np.ndarray:
        total = self._sums(self.weight, self.multibackground)
        return self._sums(self.weight * values, self.multibackground) / np.where(total > 0.0, total, 1.0)

    def _centred(self, values: np.ndarray) -> np.ndarray:
        return values - self._mean(values)


def correlation_weights(data: np.ndarray, used: np.ndarray, by_disk: bool) -> np.ndarray:
    """
    Weights that make chi^2 the mean 1 - r^2, of each disk or of all.

    Parameters
    ----------
    data : ndarray, shape (d, n)
    used : ndarray of bool, shape (d, n)
    by_disk : bool

    Returns
    -------
    ndarray, shape (d, n)
    """
    flat = Comparison(data, used.astype(float), multibackground=by_disk)
    square = flat._sums(flat.weight * flat._centred(data) ** 2, by_disk)
    n = np.count_nonzero(used.any(axis=1)) if by_disk else 1
    return used / np.where(square > 0.0, square * n, np.inf)
