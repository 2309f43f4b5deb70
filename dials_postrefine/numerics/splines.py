"""
Cubic B-splines on even knots, their products, and the roughness of their coefficients.

A function of x is sum_k c_k B_k(x); of several variables sum c_kl.. B_k(x) B_l(y) ..  Its design matrix has a row an
observation and a column a coefficient, sparse, as each row has four coefficients a variable.  The roughness
(Eilers & Marx, Stat. Sci. 1996, 11, 89)

    sum_k (c_k-1 - 2 c_k + c_k+1)^2,                                                                           (1)

of a product along each variable, is 0 for what is linear in it.
"""

from __future__ import annotations

import numpy as np

DEGREE = 3


def basis(x: np.ndarray, low: float, high: float, n: int):
    """
    The design matrix of a spline.

    Parameters
    ----------
    x : ndarray (m,)
        What is outside of the limits is taken for them.
    low, high : float
        The limits.
    n : int
        Coefficients, at least 4: of n - 3 even intervals.

    Returns
    -------
    scipy.sparse.csr_matrix (m, n)
        Rows add up to 1.
    """
    from scipy import sparse
    from scipy.interpolate import BSpline

    step = (high - low) / (n - DEGREE)
    knots = low + step * (np.arange(n + DEGREE + 1) - DEGREE)
    inside = np.clip(x, low, low + (n - DEGREE) * step * (1.0 - 1e-12))
    return sparse.csr_matrix(BSpline.design_matrix(inside, knots, DEGREE))


def product(first, second):
    """
    The design matrix of a product of functions.

    Parameters
    ----------
    first, second : scipy.sparse.csr_matrix (m, p), (m, q)
        Each with the same number of elements in all rows.

    Returns
    -------
    scipy.sparse.csr_matrix (m, p q)
        The coefficient k of the first and l of the second at k q + l.
    """
    from scipy import sparse

    m = first.shape[0]
    columns = first.indices.reshape(m, -1)[:, :, None] * second.shape[1] + second.indices.reshape(m, -1)[:, None, :]
    values = first.data.reshape(m, -1)[:, :, None] * second.data.reshape(m, -1)[:, None, :]
    each = columns[0].size if m else 0
    shape = (m, first.shape[1] * second.shape[1])
    return sparse.csr_matrix((values.ravel(), columns.ravel(), np.arange(m + 1) * each), shape=shape)


def roughness(*sizes: int) -> np.ndarray:
    """
    The matrix P of (1): c' P c, of a product along all of its variables.

    Parameters
    ----------
    *sizes : int
        Coefficients of each variable.

    Returns
    -------
    ndarray (n, n)
        n the product of the sizes.
    """
    total = np.zeros((int(np.prod(sizes)),) * 2)
    for k, size in enumerate(sizes):
        second = np.diff(np.eye(size), 2, axis=0)
        before, after = int(np.prod(sizes[:k])), int(np.prod(sizes[k + 1 :]))
        total += np.kron(np.kron(np.eye(before), second.T @ second), np.eye(after))
    return total
