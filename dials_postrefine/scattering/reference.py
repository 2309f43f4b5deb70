"""
Reference intensities: what a model says of each index, on the scale of the data where there are any.

In: a source of structure factors (AtomicSource, TabulatedSource), the unique indices that are wanted, merged data or
None, and how data and model may be indexed: an operation takes the indices h of the data to h M, and a hand of -1 to
-h M, at which the model is looked up,

    I(h) = |F_model(+-h M)|^2        (the inverted structure has F(-h) at h)

Each indexing is fitted to the data (scaling.py) and the one with the lowest R (compare.py) wins.  Without data the
scale is one and Sigma, the variance of the amplitudes, is model_error^2 times the mean intensity of the shell.
Out: intensity with standard deviation sqrt(v_model), amplitude and phase of each index, and how it came about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from cctbx import miller
from dxtbx import flumpy

from dials_postrefine.numerics.correlation import correlation_from_covariance
from dials_postrefine.numerics.indices import pack, to_flex_miller
from dials_postrefine.numerics.shells import equal_number_edges, shell_of
from dials_postrefine.scattering import compare
from dials_postrefine.scattering.bulk_solvent import Parts, intensities, structure_factors
from dials_postrefine.scattering.form_factors import WATER, FormFactors
from dials_postrefine.scattering.scaling import (
    MIN_IN_SHELL,
    MergedIntensities,
    ScaleFit,
    ScaleSettings,
    fit_scale,
    model_variance,
)
from dials_postrefine.scattering.structure_factors import calculate_f_calc, calculate_f_mask
from dials_postrefine.scattering.tensors import tensor_basis

NO_MASK = np.empty(0, complex)


class Source(Protocol):
    """
    Structure factors of any index: f_calc (n,) complex, NaN where unknown, and f_mask (n,), or (0,) without solvent;
    whether Friedel pairs differ, and whether phases are known.
    """

    friedel_pairs_differ: bool
    has_phases: bool

    def __call__(self, h: np.ndarray) -> tuple[np.ndarray, np.ndarray]: ...


@dataclass
class AtomicSource:
    """The structure factors of an atomic model, in or out of its asymmetric unit; solvent: with F_mask."""

    structure: Any
    factors: FormFactors
    solvent: bool = False
    algorithm: str = "auto"
    has_phases: bool = True
    _known: tuple | None = field(default=None, repr=False)  # sorted keys of indices, f_calc, f_mask: of the last call

    @property
    def friedel_pairs_differ(self) -> bool:
        """Whether any atom has f'' and the structure no centre."""
        group = self.structure.space_group()
        return not group.is_centric() and any(fdp for _, fdp in self.factors.dispersion.values())

    def __call__(self, h: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        key = pack(h)
        if self._known is None or not np.isin(key, self._known[0]).all():
            unique, first = np.unique(key, return_index=True)
            self._known = unique, *self._calculate(h[first])
        keys, f_calc, f_mask = self._known
        place = np.searchsorted(keys, key)
        return f_calc[place], f_mask[place] if self.solvent else NO_MASK

    def _calculate(self, h: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        indices = miller.set(self.structure, to_flex_miller(h), anomalous_flag=True)
        f_calc = calculate_f_calc(self.structure, self.factors, indices, self.algorithm)
        f_mask = NO_MASK
        if self.solvent:
            solvent, _ = calculate_f_mask(self.structure, indices)
            water = WATER[self.factors.radiation] / WATER["xray"]  # so that k_sol is that of X-rays, in electrons
            f_mask = water * flumpy.to_numpy(solvent.data())
        return flumpy.to_numpy(f_calc.data()).copy(), f_mask


@dataclass
class TabulatedSource:
    """Amplitudes, without phases, of intensities that are known: one asymmetric unit of a miller.array."""

    array: Any
    has_phases: bool = False

    @property
    def friedel_pairs_differ(self) -> bool:
        """Whether the array has them apart."""
        return bool(self.array.anomalous_flag())

    def __call__(self, h: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        wanted = to_flex_miller(h)
        miller.map_to_asu(self.array.space_group().type(), bool(self.array.anomalous_flag()), wanted)
        known = dict(zip(self.array.indices(), np.array(self.array.data())))
        intensity = np.maximum([known.get(index, np.nan) for index in wanted], 0.0)
        return np.sqrt(intensity).astype(complex), NO_MASK


@dataclass
class Indexing:
    """How data may be indexed: matrix M (3, 3) and name of the operation, hand; its fit, R, CC of the intensities."""

    matrix: np.ndarray
    name: str
    hand: int
    fit: ScaleFit | None = None
    r: float = np.nan
    cc: float = np.nan


@dataclass
class ReferenceIntensities:
    """
    The reference of the n indices asked for.

    Attributes
    ----------
    intensity, sigma, amplitude : ndarray, shape (n,)
        NaN where the source knows nothing.
    phase : ndarray, shape (n,)
        Degrees; NaN where it is not known, and of a source without phases.
    indexing : Indexing
        The one that was taken.
    indexings : list of Indexing
        All that were compared.
    shells : list of ShellAgreement
        With the data, empty without.
    """

    intensity: np.ndarray
    sigma: np.ndarray
    amplitude: np.ndarray
    phase: np.ndarray
    indexing: Indexing
    indexings: list[Indexing]
    shells: list[compare.ShellAgreement]

    @property
    def has_phases(self) -> bool:
        """Whether any phase is known."""
        return bool(np.isfinite(self.phase).any())


@dataclass
class Wanted:
    """
    The n indices that are wanted: h (n, 3), d_star_sq, epsilon, centric (n,), anomalous: Friedel pairs apart; cell and
    space group of cctbx.
    """

    h: np.ndarray
    d_star_sq: np.ndarray
    epsilon: np.ndarray
    centric: np.ndarray
    anomalous: bool
    unit_cell: Any
    space_group: Any


def calculate_reference(
    source: Source,
    wanted: Wanted,
    indexings: Sequence[Indexing],
    data: MergedIntensities | None = None,
    settings: ScaleSettings = ScaleSettings(),
) -> ReferenceIntensities:
    """
    The reference intensities of the wanted indices (module docstring).

    Parameters
    ----------
    source : Source
    wanted : Wanted
        n indices.
    indexings : sequence of Indexing
        To choose from by the data; without data the first is taken.
    data : MergedIntensities, optional
        Of the same n indices, NaN where there are none.
    settings : ScaleSettings

    Returns
    -------
    ReferenceIntensities

    Raises
    ------
    ValueError
        Where no index is known, or data can't be fitted.
    """
    basis, q = tensor_basis(settings.scale, wanted.unit_cell, wanted.space_group, wanted.h)
    found = []
    for indexing, parts in zip(indexings, _parts_of_all(source, wanted, indexings, q)):
        known = np.isfinite(parts.f_calc).all(axis=1)
        if not known.any():
            raise ValueError("the reference knows none of the indices that are wanted")
        if data is not None:
            used = known & np.isfinite(data.intensity)
            observed = data.select(used)
            fit = fit_scale(parts.select(used), basis, observed, settings)
            model = intensities(parts.select(used), fit.x)
            r = compare.r_factor(observed.intensity, model)
            indexing = replace(indexing, fit=fit, r=r, cc=correlation_from_covariance(observed.intensity, model))
        found.append((indexing, parts, known))
    best, parts, known = found[0] if data is None else min(found, key=lambda entry: entry[0].r)
    x, edges, sigma_sq = _scale(best.fit, parts, known, settings)
    intensity = intensities(parts, x)
    eps_sigma = wanted.epsilon * sigma_sq[shell_of(wanted.d_star_sq, edges)]
    phase = np.full(len(intensity), np.nan)
    if source.has_phases:
        phase = np.degrees(np.angle(structure_factors(parts, x)[:, 0]))
    return ReferenceIntensities(
        intensity=intensity,
        sigma=np.sqrt(model_variance(intensity, eps_sigma, wanted.centric)),
        amplitude=np.sqrt(intensity),
        phase=phase,
        indexing=best,
        indexings=[entry[0] for entry in found],
        shells=[] if data is None else _agreement(best.fit, wanted, data, known, intensity),
    )


def _parts_of_all(source: Source, wanted: Wanted, indexings: Sequence[Indexing], q: np.ndarray) -> list[Parts]:
    """The Parts of each indexing, the source being asked once for all indices."""
    signs = (1, -1) if source.friedel_pairs_differ and not wanted.anomalous else (1,)
    h = [sign * one.hand * np.rint(wanted.h @ one.matrix).astype(np.int32) for one in indexings for sign in signs]
    f_calc, f_mask = source(np.concatenate(h))
    n = len(wanted.h)
    f_calc = f_calc.reshape(len(indexings), len(signs), n)
    f_mask = f_mask.reshape(len(indexings), -1, n)  # of no sign without solvent
    return [Parts(wanted.d_star_sq, f_calc[k].T, f_mask[k].T, q) for k in range(len(indexings))]


def _scale(
    fit: ScaleFit | None, parts: Parts, known: np.ndarray, settings: ScaleSettings
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The parameters, the edges of the shells and their Sigma, without a fit those of the settings."""
    if fit is not None:
        return fit.x, fit.edges, fit.sigma_f**2
    x = np.zeros(parts.n_parameters)
    if parts.has_solvent:
        x[-2:] = settings.solvent
    intensity = intensities(parts, x)
    edges = equal_number_edges(parts.d_star_sq[known], settings.n_shells, MIN_IN_SHELL)
    shell = shell_of(parts.d_star_sq, edges)
    means = [np.mean(intensity[known & (shell == k)]) for k in range(len(edges) - 1)]
    return x, edges, np.array([settings.model_error**2 * mean for mean in means])


def _agreement(
    fit: ScaleFit, wanted: Wanted, data: MergedIntensities, known: np.ndarray, intensity: np.ndarray
) -> list[compare.ShellAgreement]:
    used = known & np.isfinite(data.intensity)
    observed = data.select(used)
    return compare.agreement_by_shell(
        wanted.d_star_sq[used], observed.intensity, observed.sigma, intensity[used], fit.edges, fit.sigma_f
    )
