"""
The isotropic background: functions phi_m(|s|) that stand for water, air, Compton scattering, and for what of a model's
isotropic part is wrong.

    smooth     Chebyshev polynomials in |s| up to a degree
    radial     one constant a narrow shell of equal width: nothing isotropic is left to be explained
    constant   one constant
"""

from __future__ import annotations

import numpy as np
from numpy.polynomial import chebyshev


def background_functions(s: np.ndarray, kind: str, n: int) -> np.ndarray:
    """
    The functions phi_m.

    Parameters
    ----------
    s : ndarray (n_voxels,)
        1/Angstrom.
    kind : str
        "smooth", "radial" or "constant".
    n : int
        How many of them.

    Returns
    -------
    ndarray (m, n_voxels)
        m <= n: shells without voxels are left out.
    """
    low, high = s.min(), s.max()
    x = (s - low) / max(high - low, 1e-12)
    if kind == "radial":
        shell = np.minimum((x * n).astype(int), n - 1)
        return np.array([shell == k for k in np.unique(shell)], float)
    return chebyshev.chebvander(2.0 * x - 1.0, 0 if kind == "constant" else n - 1).T
