"""
How the correlation of two atoms falls with their distance r, and that as sums of a few functions of r.

    Gamma(r) = exp(-r/gamma)  (exponential),     exp(-r^2/(2 gamma^2))  (gaussian)

within R_NEAREST, where no two atoms are, made smooth.  The kernel of liquid-like motions

    k(r; x, gamma) = exp(x Gamma(r)) - 1,     x = q^2 sigma^2,

is, for all x in (0, limit] and gamma in a window, a sum of few functions that do not depend on these,

    k(r; x, gamma) = sum_k c_k(x, gamma) b_k(r)                                                                    (1)

the first singular vectors of a table of kernels, each divided by its largest value: as many as it takes for none to be
wrong by more than PRECISE of that.  c_k = sum_r b_k(r) k(r; x, gamma) are exact derivatives' own, too: those of the sum
in (1) by x and gamma are the same with those of k.  Exponential kernels take 8 to 12 functions, gaussian ones 12 to 20.
"""

from __future__ import annotations

import numpy as np
from scipy.interpolate import CubicSpline

R_NEAREST = 1.1  # Angstrom
WINDOW = 4.0  # times gamma and 1/gamma that the functions are good for
PRECISE = 2e-4
NODES = 300  # distances of the table
GAMMAS, EXPONENTS = 24, 12  # rows of the table
N_X = 4096  # steps of x in which coefficients are tabulated


def correlation_of(r: np.ndarray, gamma: float, kernel: str) -> tuple[np.ndarray, np.ndarray]:
    """
    Gamma(r), within R_NEAREST made smooth, and its derivative by gamma.

    Parameters
    ----------
    r : ndarray
        Angstrom.
    gamma : float
        Angstrom.
    kernel : str
        "exponential" or "gaussian".

    Returns
    -------
    value, slope : ndarray
        As r.
    """
    near = np.minimum(r / R_NEAREST, 1.0) ** 2
    r = np.maximum(r, R_NEAREST * (0.375 + 0.75 * near - 0.125 * near**2))
    if kernel == "gaussian":
        value = np.exp(-0.5 * (r / gamma) ** 2)
        return value, value * r**2 / gamma**3
    value = np.exp(-r / gamma)
    return value, value * r / gamma**2


class SeparatedKernel:
    """
    The functions b_k of (1) of the module docstring.

    gamma : Angstrom, in the middle of the window; limit : of x; r_max : Angstrom, beyond which nothing is; order : to
    which exp(x Gamma) - 1 is summed, None for all.

    r (m,) are the distances, functions (K, m) the b_k there, which are smooth enough for splines between.
    """

    def __init__(self, gamma: float, limit: float, r_max: float, kernel: str, order: int | None = None):
        self.gamma, self.limit, self.kernel, self.order = gamma, limit, kernel, order
        # finer where kernels are steep
        self.r = r_max * np.linspace(0.0, 1.0, NODES) ** 2
        rows = []
        for one in gamma * np.geomspace(1.0 / WINDOW, WINDOW, GAMMAS):
            correlation = correlation_of(self.r, one, kernel)[0]
            for x in limit * np.arange(1, EXPONENTS + 1) / EXPONENTS:
                rows.append(_bracket(x * correlation, order)[0] / _bracket(np.float64(x), order)[0])
        table = np.array(rows)
        left, singular, right = np.linalg.svd(table, full_matrices=False)
        errors = [1.0]
        while errors[-1] > PRECISE and len(errors) < len(singular):
            n = len(errors)
            errors.append(np.abs(table - (left[:, :n] * singular[:n]) @ right[:n]).max())
        self.functions, self._errors = right[: len(errors) - 1], np.array(errors)

    def enough(self, weight: float) -> int:
        """How many of the functions are enough for a term that is the weight times as strong as the strongest one."""
        return max(1, int(np.argmax(weight * self._errors <= PRECISE)))

    def covers(self, limit: float, gamma: float) -> bool:
        """Whether x to a limit and gamma are within what the functions are good for."""
        return limit <= self.limit and self.gamma / WINDOW <= gamma <= self.gamma * WINDOW

    def coefficients(self, gamma: float) -> np.ndarray:
        """c_k, dc_k/dx and dc_k/dgamma at N_X + 1 values of x in [0, limit]: (N_X + 1, 3, K)."""
        correlation, slope = correlation_of(self.r, gamma, self.kernel)
        # smooth in x: exact at Chebyshev's nodes, and a polynomial between them
        node = np.cos(np.pi * (np.arange(self._n_nodes()) + 0.5) / self._n_nodes())
        x = 0.5 * self.limit * (node + 1.0)
        value, grown = _bracket(np.outer(x, correlation), self.order)
        at_nodes = np.concatenate(
            [value @ self.functions.T, (grown * correlation) @ self.functions.T]
            + [(x[:, None] * grown * slope) @ self.functions.T],
            axis=1,
        )
        polynomials = np.polynomial.chebyshev.chebvander(node, len(node) - 1)
        places = np.polynomial.chebyshev.chebvander(np.linspace(-1.0, 1.0, N_X + 1), len(node) - 1)
        return (places @ np.linalg.solve(polynomials, at_nodes)).reshape(N_X + 1, 3, -1)

    def tabulate(self, r: np.ndarray) -> np.ndarray:
        """The b_k at distances (n,) to r_max: (n, K)."""
        return CubicSpline(self.r, self.functions.T)(np.minimum(r, self.r[-1]))

    def _n_nodes(self) -> int:
        return 10 + int(1.5 * self.limit)


def _bracket(y: np.ndarray, order: int | None) -> tuple[np.ndarray, np.ndarray]:
    """exp(y) - 1 to an order, None for all, and its derivative."""
    if order is None:
        value = np.expm1(y)
        return value, value + 1.0
    term, value, slope = np.ones_like(y), np.zeros_like(y), np.zeros_like(y)
    for k in range(1, order + 1):
        slope += term
        term = term * y / k
        value += term
    return value, slope
