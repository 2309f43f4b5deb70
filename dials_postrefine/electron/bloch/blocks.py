"""
Eigenvectors of M = H + iA where absorption is weak: H is diagonalised, and iA corrects.

    B = C^H A C,   V = C diag(W, 1) (1 + X),   X_jk = M'_jk/(mu_k - mu_j),   mu_j += sum_k M'_jk M'_kj/(mu_j - mu_k)

W diagonalises L + iB of the STRONG most excited Bloch waves, which may be degenerate or cross, as it is; M' is what is
left off the diagonal after that, and X takes it to first order, and the eigenvalues to second.  Pairs of waves that
absorption couples more strongly than they lie apart are left: of hardly excited ones.  A third of the time of a general
solver.  Shapes as in propagation.py.
"""

from __future__ import annotations

import numpy as np

STRONG = 20
WEAK = 0.1  # the largest X that is taken


def weakly_absorbing(hermitian: np.ndarray, absorption: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Eigenvalues, eigenvectors and their inverse.

    Parameters
    ----------
    hermitian, absorption : ndarray, shape (o, n, n)
        H and A.

    Returns
    -------
    values : ndarray, shape (o, n)
    vectors : ndarray, shape (o, n, n)
    inverse : ndarray, shape (o, n, n)
    """
    real, c = np.linalg.eigh(hermitian)
    n, strong = c.shape[-1], min(STRONG, c.shape[-1])
    order = np.argsort(-np.abs(c[..., 0, :]), axis=-1)
    real, c = np.take_along_axis(real, order, -1), np.take_along_axis(c, order[..., None, :], -1)
    here = np.arange(n)
    m = 1j * (np.conj(np.swapaxes(c, -1, -2)) @ (absorption @ c))
    m[..., here, here] += real
    inner, w = np.linalg.eig(m[..., :strong, :strong])
    back = np.linalg.inv(w)
    m[..., :, :strong] = m[..., :, :strong] @ w
    m[..., :strong, :] = back @ m[..., :strong, :]
    values = np.diagonal(m, axis1=-2, axis2=-1).copy()
    values[..., :strong] = inner
    m[..., :strong, :strong] = 0.0
    m[..., here, here] = 0.0
    apart = values[..., None, :] - values[..., :, None]
    x = np.where(np.abs(m) < WEAK * np.abs(apart), m / np.where(apart == 0.0, 1.0, apart), 0.0)
    values = values + np.sum(x * np.swapaxes(m, -1, -2), axis=-2)
    vectors = c.astype(complex)
    vectors[..., :, :strong] = vectors[..., :, :strong] @ w
    vectors = vectors + vectors @ x
    return values, vectors, np.linalg.inv(vectors)
