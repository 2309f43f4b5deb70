"""
Robust statistics: losses, widths, slopes and ratios that a few wild values do not decide.

Losses.  A robust fit minimises 1/2 sum rho(u^2) of residuals u.  With z = u^2,

    name         rho(z)                                             rho'(z)              psi'(u) = rho' + 2 z rho''
    linear       z                                                  1                    1
    huber        z up to k^2, 2 k sqrt(z) - k^2 beyond, k = 1.345   1, k/sqrt(z)         1, 0
    student_t    (nu + 1) ln(1 + z/nu), nu = 4                      (nu + 1)/(nu + z)    (nu + 1)(nu - z)/(nu + z)^2

rho' is the weight of iterative reweighting and psi' the curvature of the objective.  Sources: Huber (1964), Ann. Math.
Stat. 35, 73; Lange, Little and Taylor (1989), J. Am. Stat. Assoc. 84, 881.

Widths.  Of a normal distribution about zero the median absolute value is MEDIAN_OF_NORMAL standard deviations, so that
1.4826 times the median absolute value is a standard deviation that half of the values must be wild to spoil.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

HUBER_K = 1.345  # 95 % efficiency for normal residuals
STUDENT_NU = 4.0
MEDIAN_OF_NORMAL = 0.6745  # of |u|, in standard deviations
MAD_TO_SIGMA = 1.4826  # the standard deviation of a normal distribution over its median absolute deviation
SLOPE_ROUNDS = 6
CLIP = 3.0  # robust standard deviations
CLIP_ROUNDS = 20


class Loss(NamedTuple):
    """rho, weight = rho' and curvature = psi' at z = u^2, (n,) each (module docstring)."""

    rho: np.ndarray
    weight: np.ndarray
    curvature: np.ndarray


def linear(z: np.ndarray) -> Loss:
    """
    The loss of least squares.

    Parameters
    ----------
    z : ndarray, shape (n,)
        u^2 (module docstring).

    Returns
    -------
    Loss
    """
    one = np.ones_like(z)
    return Loss(z, one, one)


def huber(z: np.ndarray) -> Loss:
    """
    Huber's loss: least squares up to |u| = HUBER_K, absolute values beyond.

    Parameters
    ----------
    z : ndarray, shape (n,)
        u^2 (module docstring).

    Returns
    -------
    Loss
    """
    inside = z <= HUBER_K**2
    size = np.sqrt(np.where(inside, 1.0, z))
    rho = np.where(inside, z, 2.0 * HUBER_K * size - HUBER_K**2)
    return Loss(rho, np.where(inside, 1.0, HUBER_K / size), inside.astype(float))


def student_t(z: np.ndarray) -> Loss:
    """
    The loss of Student's t with STUDENT_NU degrees of freedom: what is far out hardly counts.

    Parameters
    ----------
    z : ndarray, shape (n,)
        u^2 (module docstring).

    Returns
    -------
    Loss
    """
    return Loss(
        (STUDENT_NU + 1.0) * np.log1p(z / STUDENT_NU),
        (STUDENT_NU + 1.0) / (STUDENT_NU + z),
        (STUDENT_NU + 1.0) * (STUDENT_NU - z) / (STUDENT_NU + z) ** 2,
    )


LOSSES = {"linear": linear, "huber": huber, "student_t": student_t}
_SECOND = {
    "linear": np.zeros_like,
    "huber": lambda z: np.where(z <= HUBER_K**2, 0.0, -0.5 * HUBER_K / np.maximum(z, HUBER_K**2) ** 1.5),
    "student_t": lambda z: -(STUDENT_NU + 1.0) / (STUDENT_NU + z) ** 2,
}


def loss_derivatives(loss: str, z: np.ndarray) -> np.ndarray:
    """
    rho and its first two derivatives by z, as scipy.optimize.least_squares takes a loss.

    Parameters
    ----------
    loss : str
        One of LOSSES.
    z : ndarray, shape (n,)
        u^2, the squares of the residuals.

    Returns
    -------
    ndarray, shape (3, n)
        rho, rho' and rho''.
    """
    return np.array([*LOSSES[loss](z)[:2], _SECOND[loss](z)])


def robust_width(deviations: np.ndarray, axis: int | None = None) -> np.ndarray | float:
    """
    The robust standard deviation of deviations from where they should be: 1.4826 median |deviation|.

    Parameters
    ----------
    deviations : ndarray
        In any unit; subtract the median first to have the width about it.
    axis : int, optional
        Along which the median is taken; over all by default.

    Returns
    -------
    float or ndarray
        In the unit of the deviations; NaN of nothing.
    """
    if not np.size(deviations):
        return np.nan
    return MAD_TO_SIGMA * np.median(np.abs(deviations), axis=axis)


def slope_through_origin(y: np.ndarray, x: np.ndarray) -> float:
    """
    The robust slope a of y = a x: Huber's M-estimate, by iterative reweighting.

    The median of y/x would not do: where many x say little it is near zero whatever the slope.

    Parameters
    ----------
    y, x : ndarray, shape (n,)
        Finite values.

    Returns
    -------
    float
        The slope; NaN where all x are zero.
    """
    norm = float(x @ x)
    if not norm > 0.0:
        return np.nan
    slope = float(x @ y) / norm
    middle = len(x) // 2
    for _ in range(SLOPE_ROUNDS):
        residual = np.abs(y - slope * x)
        limit = HUBER_K * np.partition(residual, middle)[middle] / MEDIAN_OF_NORMAL
        if not limit > 0.0:
            break
        weighted = x / np.maximum(residual / limit, 1.0)
        slope = float(weighted @ y) / float(weighted @ x)
    return slope


def robust_ratio(y: np.ndarray, x: np.ndarray) -> tuple[float, float]:
    """
    The ratio R of two sums with wild values clipped: sum psi(y - R x) = 0, psi(r) = r within +-CLIP robust widths of r.

    Parameters
    ----------
    y, x : ndarray, shape (n,), n > 0
        Finite values in any unit.

    Returns
    -------
    tuple of float
        R and its esd sqrt(sum psi^2)/|sum x|; NaN where the x that are not clipped have no positive sum.
    """
    total = float(x.sum())
    ratio, esd = float(y.sum()) / total if total > 0.0 else 0.0, np.nan
    for _ in range(CLIP_ROUNDS):
        residual = y - ratio * x
        limit = CLIP * MAD_TO_SIGMA * np.median(np.abs(residual))
        inside = np.abs(residual) <= limit
        slope = float(x[inside].sum())
        if not slope > 0.0:
            return np.nan, np.nan
        psi = np.clip(residual, -limit, limit)
        before, ratio = ratio, ratio + float(psi.sum()) / slope
        esd = float(np.sqrt(psi @ psi)) / slope
        if ratio == before:  # the rounds that are left would all find the same
            break
    return ratio, esd
