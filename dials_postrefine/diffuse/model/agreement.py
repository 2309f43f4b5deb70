"""
How well a calculated map agrees with the observed one.

The anisotropic part is what is left without a line through its narrow shell of |s|; its correlation says whether a
model explains anything, as the total correlates at 0.99 even for a wrong orientation.  Figures of held-out voxels
take off the line of all voxels of the shell.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dials_postrefine.numerics.correlation import correlation

N_RADIAL = 40
FEWEST = 10  # voxels of which a correlation is said


@dataclass(frozen=True)
class ModelShell:
    """Of a shell (d_max, d_min; Angstrom): voxels n, correlation of the anisotropic part, chi^2 a voxel, and R."""

    d_max: float
    d_min: float
    n: int
    cc: float
    chi_sq: float
    r: float


def anisotropic_part(values: np.ndarray, s: np.ndarray, n_radial: int = N_RADIAL) -> np.ndarray:
    """
    Values less their isotropic part.

    Parameters
    ----------
    values, s : ndarray (n,)
    n_radial : int
        Shells of equal width in |s|.

    Returns
    -------
    ndarray (n,)
        What a straight line in |s| leaves of each shell: a constant would leave the slope that any background has.
    """
    edges = np.linspace(s.min(), s.max() * (1.0 + 1e-9), n_radial + 1)
    shell = np.clip(np.searchsorted(edges, s, side="right") - 1, 0, n_radial - 1)
    n = np.maximum(np.bincount(shell, minlength=n_radial), 1)

    def centred(x):
        return x - (np.bincount(shell, x, minlength=n_radial) / n)[shell]

    x, y = centred(s), centred(values)
    size = np.bincount(shell, x * x, minlength=n_radial)
    slope = np.bincount(shell, x * y, minlength=n_radial) / np.where(size > 0.0, size, 1.0)
    return y - slope[shell] * x


def anisotropic_correlation(observed, calculated, s: np.ndarray, chosen: np.ndarray) -> float:
    """
    The correlation of the anisotropic parts.

    Parameters
    ----------
    observed, calculated, s : ndarray (n,)
    chosen : ndarray (n,) of bool
        Whose correlation it is.

    Returns
    -------
    float
        NaN of fewer than FEWEST voxels, or where one is isotropic.
    """
    if chosen.sum() < FEWEST:
        return float("nan")
    x, y = anisotropic_part(observed, s), anisotropic_part(calculated, s)
    if np.abs(y).max() <= 1e-6 * np.abs(calculated).max(initial=1e-300):
        return float("nan")
    return correlation(x[chosen], y[chosen])


def correlations_of_halves(observed, sigma, s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    CC1/2 of the anisotropic part by shell: (T - N)/(T + N) with its variance T and that of the noise N = <sigma^2>.

    Parameters
    ----------
    observed, sigma, s : ndarray (n,)

    Returns
    -------
    edges : ndarray (m,)
        The outer ones, in |s|.
    cc : ndarray (m,)
        NaN of fewer than FEWEST voxels.
    """
    edges = np.linspace(s.min(), s.max() * (1.0 + 1e-9), N_RADIAL + 1)[1:]
    shell = np.minimum(np.searchsorted(edges, s, side="right"), N_RADIAL - 1)
    n = np.bincount(shell, minlength=N_RADIAL)
    total = np.bincount(shell, anisotropic_part(observed, s) ** 2, N_RADIAL)
    noise = np.bincount(shell, sigma**2, N_RADIAL)
    enough = n >= FEWEST
    return edges, np.where(enough, (total - noise) / np.where(enough, total + noise, 1.0), np.nan)


def by_shell(observed, calculated, variance, s: np.ndarray, edges: np.ndarray) -> list[ModelShell]:
    """
    The agreement by shell.

    Parameters
    ----------
    observed, calculated, variance, s : ndarray (n,)
    edges : ndarray (m + 1,)
        In |s|, 1/Angstrom.

    Returns
    -------
    list of m ModelShell
    """
    x, y = anisotropic_part(observed, s), anisotropic_part(calculated, s)
    flat = np.abs(y).max() <= 1e-6 * np.abs(calculated).max(initial=1e-300)
    found = []
    for low, high in zip(edges[:-1], edges[1:]):
        here = (s >= low) & (s < high)
        n = int(here.sum())
        enough = n >= FEWEST
        difference = observed[here] - calculated[here]
        found.append(
            ModelShell(
                1.0 / low if low > 0.0 else np.inf,
                1.0 / high,
                n,
                correlation(x[here], y[here]) if enough and not flat else np.nan,
                float((difference**2 / variance[here]).mean()) if n else np.nan,
                float(np.abs(difference).sum() / np.abs(observed[here]).sum()) if n else np.nan,
            )
        )
    return found
