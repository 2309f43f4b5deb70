"""
Scale, overall B and bulk solvent refined against merged intensities.

In: the Parts of the model (bulk_solvent.py), intensities I with standard deviations sigma; out: the parameters with
their esds.  The minimum of

    sum_h rho(r_h^2),   r = (I - I_model)/sqrt(v),   v = sigma^2 + v_model

is sought by scipy's trust-region least squares with the derivatives of bulk_solvent.py, for least_squares rho(z) = z,
for robust that of Student's t, rho(z) = (nu + 1) ln(1 + z/nu), nu = 4 (Lange, Little and Taylor 1989), to which what
is far out weighs less and less.  v_model is the variance that an incomplete and wrong model adds: F = F_model + delta,
delta a complex Gaussian of variance eps Sigma in each shell of resolution, so that

    v_model = c (2 I_model eps Sigma + (eps Sigma)^2),     c = 1, centric 2

Sigma is such that the median of |r| in its shell is that of a normal distribution: outliers do not count for it.  Fit
and Sigma take turns until the fit no longer changes.  esds are those of M-estimators, A^-1 C A^-1 with A = sum rho'
J^T J (second order in what bends rho included) and C = sum psi^2 J^T J, J = d r/d x (Huber 1967, White 1982).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq, least_squares

from cctbx import adptbx, sgtbx

from dials_postrefine.numerics.robust import LOSSES, MEDIAN_OF_NORMAL, loss_derivatives
from dials_postrefine.numerics.sandwich import sandwich_hc1
from dials_postrefine.numerics.shells import equal_number_edges, shell_of
from dials_postrefine.scattering.bulk_solvent import B_SOL, Parts, intensities, intensities_and_derivatives

LOSS = {"least_squares": "linear", "robust": "student_t"}  # by target
MIN_IN_SHELL = 25  # reflections that tell Sigma
MAX_ROUNDS = 12
CONVERGED = 0.01  # of an esd
MAX_B_SOL = 400.0  # Angstrom^2
OUTLIER = 6.0  # expected standard deviations


@dataclass
class ScaleFit:
    """
    The fitted model.

    x and covariance of the parameters (bulk_solvent.py); k_ov with its esd; b_cart (6,): 11 22 33 12 13 23 in
    Angstrom^2 with esds; k_sol and b_sol with esds, NaN where not refined; n reflections used, n_outliers of them more
    than 6 expected standard deviations off; chi_sq = median of |r| as a standard deviation, squared; edges (s + 1,) of
    the shells in d*^2 and sigma_f (s,): sqrt(Sigma), the model error on the amplitudes; at_bound: what ended at one.
    """

    x: np.ndarray
    covariance: np.ndarray
    k_ov: float
    k_ov_esd: float
    b_cart: np.ndarray
    b_cart_esd: np.ndarray
    k_sol: float
    k_sol_esd: float
    b_sol: float
    b_sol_esd: float
    n: int
    n_outliers: int
    chi_sq: float
    edges: np.ndarray
    sigma_f: np.ndarray
    at_bound: list[str]


def tensor_basis(scale: str, unit_cell, space_group, h: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    The tensors that B_cart may be made of, T (p, 6), and q (n, p) of the indices h (n, 3) (bulk_solvent.Parts).

    scale: none (p = 0), isotropic (p = 1), anisotropic (what the crystal system allows, orthonormal but for the first).
    """
    if scale == "none":
        return np.empty((0, 6)), np.empty((len(h), 0))
    isotropic = np.array([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
    basis = [isotropic]
    if scale == "anisotropic":
        constraints = sgtbx.tensor_rank_2_constraints(space_group=space_group, reciprocal_space=True)
        n = constraints.n_independent_params()
        for unit in np.eye(n):
            star = constraints.all_params(independent_params=list(unit))
            tensor = np.array(adptbx.u_star_as_u_cart(unit_cell, star))
            for other in basis:
                tensor = tensor - other * (tensor @ other) / (other @ other)
            size = np.linalg.norm(tensor)
            if len(basis) < n and size > 1e-8 * np.linalg.norm(adptbx.u_star_as_u_cart(unit_cell, star)):
                basis.append(tensor / size)
    h = h.astype(float)
    q = []
    for tensor in basis:
        s11, s22, s33, s12, s13, s23 = adptbx.u_cart_as_u_star(unit_cell, tuple(tensor))
        q.append(
            s11 * h[:, 0] ** 2
            + s22 * h[:, 1] ** 2
            + s33 * h[:, 2] ** 2
            + 2.0 * (s12 * h[:, 0] * h[:, 1] + s13 * h[:, 0] * h[:, 2] + s23 * h[:, 1] * h[:, 2])
        )
    return np.array(basis), np.array(q).T


def model_variance(intensity: np.ndarray, eps_sigma: np.ndarray, centric: np.ndarray) -> np.ndarray:
    """v_model (n,) of intensities I_model, eps Sigma and centric flags, all (n,) (module docstring)."""
    return np.where(centric, 2.0, 1.0) * (2.0 * intensity * eps_sigma + eps_sigma**2)


def fit_scale(
    parts: Parts,
    intensity: np.ndarray,
    sigma: np.ndarray,
    basis: np.ndarray,
    epsilon: np.ndarray,
    centric: np.ndarray,
    target: str = "robust",
    k_sol: float = 0.35,
    b_sol: float = B_SOL,
    refine_solvent: bool = True,
    n_shells: int = 10,
) -> ScaleFit:
    """
    Fit the model of the parts to intensity and sigma (n,), all finite and sigma > 0 (module docstring).

    basis (p, 6) goes with parts.q; epsilon (n,) and centric (n,) of the reflections; target: least_squares or robust;
    k_sol (whose sign is that of the radiation's water) and b_sol: start, or, unless refine_solvent, values.
    Raises ValueError where there are fewer reflections than parameters, or data and model have no positive scale.
    """
    n, n_parameters = len(intensity), parts.n_parameters
    if n <= n_parameters:
        raise ValueError(f"{n} reflections can't tell {n_parameters} parameters")
    edges = equal_number_edges(parts.d_star_sq, n_shells, MIN_IN_SHELL)
    shell = shell_of(parts.d_star_sq, edges)
    free = np.ones(n_parameters, dtype=bool)
    starts = [(k_sol, b_sol)]
    if parts.f_mask is None:
        starts = [()]
    elif refine_solvent:
        starts += [(0.5 * k_sol, 2.0 * b_sol), (1.4 * k_sol, 0.6 * b_sol)]
    else:
        free[-2:] = False
    lower, upper = np.full(n_parameters, -np.inf), np.full(n_parameters, np.inf)
    if parts.f_mask is not None and refine_solvent:
        lower[-2:], upper[-2:] = (min(0.0, 3.0 * k_sol), 0.0), (max(0.0, 3.0 * k_sol), MAX_B_SOL)

    best = None
    for start in starts:
        x = _start(parts, intensity, shell, start)
        sigma_sq = np.zeros(len(edges) - 1)
        for _ in range(MAX_ROUNDS):
            current = intensities(parts, x)
            sigma_sq = _model_errors(intensity - current, current, sigma, epsilon, centric, shell, len(sigma_sq))
            variance = sigma**2 + model_variance(current, epsilon * sigma_sq[shell], centric)
            before, x = x, _minimise(parts, intensity, variance, x, free, lower, upper, target)
            covariance = _covariance(parts, intensity, variance, x, free & (x > lower) & (x < upper), target)
            with np.errstate(invalid="ignore", divide="ignore"):
                moved = np.abs(x - before) / np.sqrt(np.diag(covariance))
            if not (moved[np.isfinite(moved)] > CONVERGED).any():
                break
        residual = (intensity - intensities(parts, x)) / np.sqrt(variance)
        likelihood = np.sum(np.log(variance)) + np.sum(LOSSES["student_t"](residual**2).rho)
        if best is None or likelihood < best[0] - 1e-6:
            best = likelihood, x, covariance, sigma_sq, residual
    _, x, covariance, sigma_sq, residual = best
    names = ["ln k_ov", *(f"b_{j + 1}" for j in range(len(basis))), "k_sol", "b_sol"][:n_parameters]
    bound = free & np.isfinite(lower) & (np.isclose(x, lower, atol=1e-6) | np.isclose(x, upper, atol=1e-6))
    return _result(x, covariance, basis, residual, edges, sigma_sq, [name for name, b in zip(names, bound) if b], parts)


def _start(parts: Parts, intensity: np.ndarray, shell: np.ndarray, solvent: tuple) -> np.ndarray:
    """Scale and isotropic B from the medians of the shells: ln(I/I_model) = 2 ln k_ov - B d*^2/2."""
    x = np.zeros(parts.n_parameters)
    x[len(x) - len(solvent) :] = solvent
    model = intensities(parts, x)
    rows = [np.flatnonzero(shell == k) for k in range(shell.max() + 1)]
    ratio = np.array([np.median(intensity[row]) / np.median(model[row]) for row in rows])
    d_star_sq = np.array([np.mean(parts.d_star_sq[row]) for row in rows])
    good = np.isfinite(ratio) & (ratio > 0.0)
    if not good.any():
        raise ValueError("data and model have no positive scale")
    if parts.q.shape[1] and np.count_nonzero(good) > 2:
        slope, offset = np.polyfit(d_star_sq[good], np.log(ratio[good]), 1)
        x[0], x[1] = offset / 2.0, -2.0 * slope
    else:
        x[0] = np.median(np.log(ratio[good])) / 2.0
    return x


def _model_errors(difference, model, sigma, epsilon, centric, shell, n_shells) -> np.ndarray:
    """Sigma by shell (n_shells,): makes the median of |r| a normal one's; 0 where sigma alone explains it."""
    found = np.zeros(n_shells)
    for k in range(n_shells):
        own = shell == k
        deviation, eps = np.abs(difference[own]), epsilon[own]

        def excess(value):
            variance = sigma[own] ** 2 + model_variance(model[own], eps * value, centric[own])
            return np.median(deviation / np.sqrt(variance)) - MEDIAN_OF_NORMAL

        top = np.mean(model[own]) + np.median(deviation)
        if excess(1e-12 * top) <= 0.0:
            continue
        while excess(top) > 0.0:
            top *= 4.0
        found[k] = brentq(excess, 1e-12 * top, top, xtol=1e-9 * top, rtol=1e-6)
    return found


def _minimise(parts, intensity, variance, x, free, lower, upper, target) -> np.ndarray:
    weight = 1.0 / np.sqrt(variance)

    def whole(free_x):
        every = x.copy()
        every[free] = free_x
        return every

    def residuals(free_x):
        return (intensity - intensities(parts, whole(free_x))) * weight

    def jacobian(free_x):
        return -intensities_and_derivatives(parts, whole(free_x))[1][:, free] * weight[:, None]

    start = np.clip(x[free], lower[free], upper[free])
    name = LOSS[target]
    loss = name if name == "linear" else (lambda z: loss_derivatives(name, z))
    found = least_squares(
        residuals, start, jacobian, (lower[free], upper[free]), loss=loss, x_scale="jac", xtol=1e-10, ftol=1e-12
    )
    return whole(found.x)


def _covariance(parts, intensity, variance, x, free, target) -> np.ndarray:
    """The sandwich of the module docstring; NaN for what is not free."""
    model, derivatives = intensities_and_derivatives(parts, x)
    jacobian = derivatives[:, free] / np.sqrt(variance)[:, None]
    residual = (intensity - model) / np.sqrt(variance)
    covariance = np.full((len(x), len(x)), np.nan)
    covariance[np.ix_(free, free)] = sandwich_hc1(residual, jacobian, LOSS[target])
    return covariance


def _result(x, covariance, basis, residual, edges, sigma_sq, at_bound, parts) -> ScaleFit:
    p = len(basis)
    b_covariance = covariance[1 : 1 + p, 1 : 1 + p]
    solvent = parts.f_mask is not None
    esd = np.sqrt(np.diag(covariance))
    return ScaleFit(
        x=x,
        covariance=covariance,
        k_ov=float(np.exp(x[0])),
        k_ov_esd=float(np.exp(x[0]) * esd[0]),
        b_cart=x[1 : 1 + p] @ basis if p else np.zeros(6),
        b_cart_esd=np.sqrt(np.diag(basis.T @ b_covariance @ basis)) if p else np.full(6, np.nan),
        k_sol=float(x[-2]) if solvent else np.nan,
        k_sol_esd=float(esd[-2]) if solvent else np.nan,
        b_sol=float(x[-1]) if solvent else np.nan,
        b_sol_esd=float(esd[-1]) if solvent else np.nan,
        n=len(residual),
        n_outliers=int(np.count_nonzero(np.abs(residual) > OUTLIER)),
        chi_sq=float((np.median(np.abs(residual)) / MEDIAN_OF_NORMAL) ** 2),
        edges=edges,
        sigma_f=np.sqrt(sigma_sq),
        at_bound=at_bound,
    )
