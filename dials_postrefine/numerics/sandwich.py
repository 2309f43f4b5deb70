"""
The covariance of fitted parameters by the sandwich estimator, which holds where weights are no inverse variances.

At the minimum of 1/2 sum rho(u_i^2), with J = du/dx (n, k), W = rho'(u^2) and psi' = rho' + 2 u^2 rho'' (robust.py),

    C = H^-1 (J^T W^2 u^2 D J) H^-1,      H = J^T psi' J.

D corrects for what the fit has taken off the residuals, and two are in use:

    hc3   D_i = 1/(1 - h_i)^2,  h_i = psi'(u_i) j_i H^-1 j_i the leverage: of few observations some fit themselves, and
          without it the esds come out too small
    hc1   D = n/(n - k): for many observations of a few parameters

Where observations hang together in clusters, sums over each cluster take the place of its observations
(sandwich_clusters).

Sources: Huber (1967), Proc. 5th Berkeley Symp. 1, 221; White (1982), Econometrica 50, 1; MacKinnon and White (1985),
J. Econometrics 29, 305.
"""

from __future__ import annotations

import numpy as np

from dials_postrefine.numerics.robust import LOSSES, loss_derivatives

MAX_LEVERAGE = 0.95
SINGULAR = 1e-12  # the smallest eigenvalue of H, in units of the largest
PINV_SINGULAR = 1e-14


def sandwich_hc3(u: np.ndarray, jacobian: np.ndarray, loss: str, width: np.ndarray | None = None) -> np.ndarray:
    """
    The covariance of the parameters with the leverage taken off (module docstring).

    Parameters
    ----------
    u : ndarray, shape (n,)
        Weighted residuals at the minimum.
    jacobian : ndarray, shape (n, k)
        du/dx.
    loss : str
        One of robust.LOSSES.
    width : ndarray, shape (k,), optional
        Widths of restraints, in the units of the parameters: each counts as one observation; infinite is none.

    Returns
    -------
    ndarray, shape (k, k)
        Infinite on the diagonal where the data do not determine the parameters (n <= k or a singular matrix).
    """
    n, k = jacobian.shape
    unknown = np.diag(np.full(k, np.inf))
    _, weight, slope = LOSSES[loss](u * u)
    precision = np.zeros(k) if width is None else width**-2.0
    units = np.sqrt(np.einsum("ij,ij->j", jacobian, jacobian) + precision)
    if n + np.count_nonzero(precision) <= k or not np.all(units > 0.0):
        return unknown
    scaled = jacobian / units
    restraints = np.diag(precision / units**2)
    for curvature in (slope, weight):  # psi' of a loss that is not convex may give no positive matrix
        hessian = scaled.T @ (curvature[:, None] * scaled) + restraints
        eigenvalues, vectors = np.linalg.eigh(hessian)
        if eigenvalues[0] > SINGULAR * eigenvalues[-1] > 0.0:
            inverse = (vectors / eigenvalues) @ vectors.T
            leverage = np.clip(curvature * np.einsum("ij,jk,ik->i", scaled, inverse, scaled), 0.0, MAX_LEVERAGE)
            psi = (weight * u / (1.0 - leverage))[:, None] * scaled
            return inverse @ (psi.T @ psi + restraints) @ inverse / np.outer(units, units)
    return unknown


def sandwich_hc1(u: np.ndarray, jacobian: np.ndarray, loss: str) -> np.ndarray:
    """
    The covariance of the parameters with the number of observations corrected (module docstring).

    Parameters
    ----------
    u : ndarray, shape (n,)
        Weighted residuals at the minimum, more than there are parameters.
    jacobian : ndarray, shape (n, k)
        du/dx, of either sign.
    loss : str
        One of robust.LOSSES.

    Returns
    -------
    ndarray, shape (k, k)
        By the pseudo-inverse of H: zero for directions that the data do not determine.
    """
    _, first, second = loss_derivatives(loss, u**2)
    # by rho'', and not the psi' of LOSSES: the same to rounding, and no figure is to change
    curvature = first + 2.0 * second * u**2
    inner = np.einsum("n,ni,nj->ij", (first * u) ** 2, jacobian, jacobian)
    hessian = np.einsum("n,ni,nj->ij", curvature, jacobian, jacobian)
    inverse = np.linalg.pinv(hessian, rcond=PINV_SINGULAR, hermitian=True)
    n, k = jacobian.shape
    return inverse @ inner @ inverse * n / (n - k)


def sandwich_clusters(scores: np.ndarray, inverse: np.ndarray) -> np.ndarray:
    """
    The covariance of a linear fit whose observations hang together in clusters, which are independent of one another.

    Parameters
    ----------
    scores : ndarray, shape (c, k)
        Of each cluster the sum of J_i u_i over its observations.
    inverse : ndarray, shape (k, k)
        H^-1, of H = J^T J with what restrains the parameters.

    Returns
    -------
    ndarray, shape (k, k)
        H^-1 (sum s s^T) H^-1 c/(c - 1); infinite of one cluster.  Source: Liang and Zeger (1986), Biometrika 73, 13.
    """
    c, k = scores.shape
    if c < 2:
        return np.full((k, k), np.inf)
    return inverse @ (scores.T @ scores) @ inverse * c / (c - 1)
