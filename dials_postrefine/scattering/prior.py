"""
A model's intensities and the mean of the data put together, each with the weight that its error allows.

Lattices that are fitted to an imperfect model inherit its errors, and lattices fitted to their mean are fitted to
little where data are sparse.  The best estimate of each intensity is between both,

    I_ref = (I_obs/v_obs + I_model/v_model)/(1/v_obs + 1/v_model),   share of the data = (1/v_obs)/(1/v_obs + 1/v_model)

v_obs the variance of the merged mean, v_model that of scaling.py, which is found from the data themselves, by shell:
the better the model, the more it counts.  Only the model is left where there are no data, and only the data where
there is no model.  In: arrays over the unique indices; out: the same, on the scale of the data.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dials_postrefine.numerics.grouped import grouped_mean
from dials_postrefine.numerics.shells import shell_of
from dials_postrefine.scattering.bulk_solvent import Parts, intensities
from dials_postrefine.scattering.scaling import MergedIntensities, ScaleFit, ScaleSettings, fit_scale, model_variance


@dataclass
class Combined:
    """
    A model and merged data put together, for n indices.

    Attributes
    ----------
    intensity : ndarray, shape (n,)
        NaN where neither is known.
    share : ndarray, shape (n,)
        Of the data in it, 0 to 1.
    both : ndarray of bool, shape (n,)
        Whether model and data are known.
    model, variance : ndarray, shape (n,)
        The model on the scale of the data, and its variance.
    fit : ScaleFit
        Scale and isotropic B, and the model's error by shell.
    """

    intensity: np.ndarray
    share: np.ndarray
    both: np.ndarray
    model: np.ndarray
    variance: np.ndarray
    fit: ScaleFit

    def share_by_shell(self, d_star_sq: np.ndarray) -> np.ndarray:
        """The mean share of the data in the shells of the fit (s,), over the indices (n,) with both; NaN of none."""
        shell = shell_of(d_star_sq, self.fit.edges)
        return grouped_mean(self.share[self.both], shell[self.both], len(self.fit.edges) - 1)


@dataclass
class ModelPrior:
    """
    What dials.postrefine's cycles ask a model for: of merged data, the model's intensities on their scale and their
    variances.

    Attributes
    ----------
    model : ndarray, shape (n,)
        NaN where unknown.
    d_star_sq : ndarray, shape (n,)
        1/Angstrom^2.
    epsilon : ndarray, shape (n,)
    centric : ndarray of bool, shape (n,)
    last : Combined or None
        The outcome of the last call, None before, and where data and model have too little in common.
    """

    model: np.ndarray
    d_star_sq: np.ndarray
    epsilon: np.ndarray
    centric: np.ndarray
    last: Combined | None = None

    def __call__(self, observed: np.ndarray, sigma: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        try:
            self.last = combine(self.model, observed, sigma, self.d_star_sq, self.epsilon, self.centric)
        except ValueError:
            self.last = None
            return None
        return self.last.model, self.last.variance


def combine(
    model: np.ndarray,
    observed: np.ndarray,
    sigma: np.ndarray,
    d_star_sq: np.ndarray,
    epsilon: np.ndarray,
    centric: np.ndarray,
    n_shells: int = 10,
) -> Combined:
    """
    Put a model's intensities and merged data together (module docstring).

    Parameters
    ----------
    model, observed, sigma : ndarray, shape (n,)
        NaN where unknown.
    d_star_sq : ndarray, shape (n,)
        1/Angstrom^2.
    epsilon : ndarray, shape (n,)
    centric : ndarray of bool, shape (n,)
    n_shells : int
        Of the model's error.

    Returns
    -------
    Combined
        Of the n indices, on the scale of the data.

    Raises
    ------
    ValueError
        Where they have too little in common.
    """
    amplitude = np.sqrt(np.maximum(model, 0.0)).astype(complex)[:, None]
    parts = Parts(d_star_sq, amplitude, np.empty((len(model), 0), complex), d_star_sq[:, None])
    both = np.isfinite(model) & np.isfinite(observed) & (sigma > 0.0)
    basis = np.array([[1.0, 1.0, 1.0, 0.0, 0.0, 0.0]])
    data = MergedIntensities(observed, sigma, epsilon, centric)
    fit = fit_scale(parts.select(both), basis, data.select(both), ScaleSettings(n_shells=n_shells))
    scaled = intensities(parts, fit.x)
    eps_sigma = epsilon * fit.sigma_f[shell_of(d_star_sq, fit.edges)] ** 2
    variance = model_variance(scaled, eps_sigma, centric)
    # v_obs/(v_obs + v_model) is the model's share, also where either variance is zero
    total = sigma**2 + variance
    share = np.divide(variance, total, out=np.zeros_like(total), where=both & (total > 0.0))
    intensity = np.where(both, share * np.where(both, observed, 0.0) + (1.0 - share) * scaled, scaled)
    only_data = ~np.isfinite(model) & np.isfinite(observed) & (sigma > 0.0)
    return Combined(
        intensity=np.where(only_data, observed, intensity),
        share=np.where(only_data, 1.0, share),
        both=both,
        model=scaled,
        variance=variance,
        fit=fit,
    )
