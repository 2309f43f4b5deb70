"""
Reference intensities: what a model says of each index, on the scale of the data where there are any.

In: a source of structure factors (AtomicSource, TabulatedSource), the unique indices that are wanted, merged data or
None, and the ways in which data and model may be indexed: an operation takes the indices h of the data to h M, and a
hand of -1 to -h M, at which the model is looked up,

    I(h) = |F_model(+-h M)|^2        (the inverted structure has F(-h) at h)

Each way is fitted to the data (scaling.py) and the one with the lowest R (compare.py) wins.  Without data the scale is
one and Sigma, the variance of the amplitudes, is model_error^2 times the mean intensity of the shell.
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
from dials_postrefine.scattering.bulk_solvent import B_SOL, K_SOL, Parts, intensities, structure_factors
from dials_postrefine.scattering.form_factors import WATER, FormFactors
from dials_postrefine.scattering.scaling import MIN_IN_SHELL, ScaleFit, fit_scale, model_variance, tensor_basis
from dials_postrefine.scattering.structure_factors import calculate_f_calc, calculate_f_mask


@dataclass(frozen=True)
class ScaleSettings:
    """
    How model and data are brought together: scale and target (scaling.py); k_sol in electrons/Angstrom^3 and b_sol in
    Angstrom^2 of a solvent as water, None for both: refined where there are data; model_error relative of amplitudes,
    where there are no data.
    """

    scale: str = "anisotropic"
    target: str = "robust"
    k_sol: float | None = None
    b_sol: float | None = None
    model_error: float = 0.2
    n_shells: int = 10

    @property
    def solvent(self) -> tuple[float, float]:
        """k_sol and b_sol as given, or where a refinement starts."""
        return K_SOL if self.k_sol is None else self.k_sol, B_SOL if self.b_sol is None else self.b_sol


class Source(Protocol):
    """
    Structure factors of any index: f_calc, NaN where unknown, and f_mask or None, (n,) complex; whether Friedel mates
    differ, and whether phases are known.
    """

    friedel_mates_differ: bool
    has_phases: bool

    def __call__(self, h: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]: ...


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
    def friedel_mates_differ(self) -> bool:
        """Whether any atom has f'' and the structure no centre."""
        group = self.structure.space_group()
        return not group.is_centric() and any(fdp for _, fdp in self.factors.dispersion.values())

    def __call__(self, h: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        key = pack(h)
        if self._known is None or not np.isin(key, self._known[0]).all():
            unique, first = np.unique(key, return_index=True)
            self._known = unique, *self._calculate(h[first])
        keys, f_calc, f_mask = self._known
        place = np.searchsorted(keys, key)
        return f_calc[place], None if f_mask is None else f_mask[place]

    def _calculate(self, h: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        indices = miller.set(self.structure, to_flex_miller(h), anomalous_flag=True)
        f_calc = calculate_f_calc(self.structure, self.factors, indices, self.algorithm)
        f_mask = None
        if self.solvent:
            f_mask, _ = calculate_f_mask(self.structure, indices)
            water = WATER[self.factors.radiation] / WATER["xray"]  # so that k_sol is that of X-rays, in electrons
            f_mask = water * flumpy.to_numpy(f_mask.data())
        return flumpy.to_numpy(f_calc.data()).copy(), f_mask


@dataclass
class TabulatedSource:
    """Amplitudes, without phases, of intensities that are known: one asymmetric unit of a miller.array."""

    array: Any
    has_phases: bool = False

    @property
    def friedel_mates_differ(self) -> bool:
        return bool(self.array.anomalous_flag())

    def __call__(self, h: np.ndarray) -> tuple[np.ndarray, None]:
        wanted = to_flex_miller(h)
        miller.map_to_asu(self.array.space_group().type(), bool(self.array.anomalous_flag()), wanted)
        known = dict(zip(self.array.indices(), np.array(self.array.data())))
        return np.sqrt(np.maximum([known.get(index, np.nan) for index in wanted], 0.0)).astype(complex), None


@dataclass
class Way:
    """One way to index: the operation's matrix M (3, 3) and name, the hand; its fit, R, CC of the intensities."""

    matrix: np.ndarray
    name: str
    hand: int
    fit: ScaleFit | None = None
    r: float = np.nan
    cc: float = np.nan


@dataclass
class ReferenceIntensities:
    """
    For the n indices asked for: intensity and sigma (n,), amplitude (n,), NaN where the source knows nothing, and phase
    (n,) (degrees), None of a source without phases; way: that was taken, of the ways; shells: agreement with the data,
    empty without.
    """

    intensity: np.ndarray
    sigma: np.ndarray
    amplitude: np.ndarray
    phase: np.ndarray | None
    way: Way
    ways: list[Way]
    shells: list[compare.ShellAgreement]


@dataclass
class Wanted:
    """The n indices: h (n, 3), d_star_sq, epsilon, centric (n,), anomalous: mates apart; cell, space group of cctbx."""

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
    ways: Sequence[Way],
    observed: np.ndarray | None = None,
    sigma: np.ndarray | None = None,
    settings: ScaleSettings = ScaleSettings(),
) -> ReferenceIntensities:
    """
    The reference intensities of the wanted indices (module docstring).

    observed and sigma (n,): merged data, NaN where there are none.
    Raises ValueError where no index is known, or data can't be fitted.
    """
    basis, q = tensor_basis(settings.scale, wanted.unit_cell, wanted.space_group, wanted.h)
    done = []
    for way, parts in zip(ways, _parts_of_ways(source, wanted, ways, q)):
        known = np.isfinite(parts.f_calc).all(axis=1)
        if not known.any():
            raise ValueError("the reference knows none of the indices that are wanted")
        if observed is None:
            done.append((way, parts, known))
            continue
        used = known & np.isfinite(observed)
        fit = fit_scale(
            parts.select(used),
            observed[used],
            sigma[used],
            basis,
            wanted.epsilon[used],
            wanted.centric[used],
            target=settings.target,
            k_sol=settings.solvent[0],
            b_sol=settings.solvent[1],
            refine_solvent=settings.k_sol is None and settings.b_sol is None,
            n_shells=settings.n_shells,
        )
        model = intensities(parts.select(used), fit.x)
        r, cc = compare.r_factor(observed[used], model), correlation_from_covariance(observed[used], model)
        done.append((replace(way, fit=fit, r=r, cc=cc), parts, known))
    best, parts, known = done[0] if observed is None else min(done, key=lambda entry: entry[0].r)
    return _collect(source, wanted, best, [entry[0] for entry in done], parts, known, observed, sigma, settings)


def _parts_of_ways(source: Source, wanted: Wanted, ways: Sequence[Way], q: np.ndarray) -> list[Parts]:
    """The Parts of each way, the source being asked once for all indices."""
    mates = (1, -1) if source.friedel_mates_differ and not wanted.anomalous else (1,)
    h = [mate * way.hand * np.rint(wanted.h @ way.matrix).astype(np.int32) for way in ways for mate in mates]
    f_calc, f_mask = source(np.concatenate(h))
    shape = len(ways), len(mates), len(wanted.h)
    f_calc = f_calc.reshape(shape)
    f_mask = None if f_mask is None else f_mask.reshape(shape)
    return [Parts(wanted.d_star_sq, f_calc[k].T, None if f_mask is None else f_mask[k].T, q) for k in range(len(ways))]


def _collect(source, wanted, way, ways, parts, known, observed, sigma, settings) -> ReferenceIntensities:
    if way.fit is not None:
        x, edges, sigma_sq = way.fit.x, way.fit.edges, way.fit.sigma_f**2
    else:
        x = np.zeros(parts.n_parameters)
        if parts.f_mask is not None:
            x[-2:] = settings.solvent
    intensity = intensities(parts, x)
    if way.fit is None:
        edges = equal_number_edges(wanted.d_star_sq[known], settings.n_shells, MIN_IN_SHELL)
        shell = shell_of(wanted.d_star_sq, edges)
        sigma_sq = np.array(
            [settings.model_error**2 * np.mean(intensity[known & (shell == k)]) for k in range(len(edges) - 1)]
        )
    eps_sigma = wanted.epsilon * sigma_sq[shell_of(wanted.d_star_sq, edges)]
    shells = []
    if way.fit is not None:
        used = known & np.isfinite(observed)
        shells = compare.agreement_by_shell(
            wanted.d_star_sq[used], observed[used], sigma[used], intensity[used], edges, way.fit.sigma_f
        )
    return ReferenceIntensities(
        intensity=intensity,
        sigma=np.sqrt(model_variance(intensity, eps_sigma, wanted.centric)),
        amplitude=np.sqrt(intensity),
        phase=np.degrees(np.angle(structure_factors(parts, x)[:, 0])) if source.has_phases else None,
        way=way,
        ways=ways,
        shells=shells,
    )
