"""
The integrated observations of a reflection table that can be used, as arrays (`Usable`), corrected for polarisation and
detector efficiency exactly once:

    I = I_sum lp/qe,    v = v_sum (lp/qe)^2

with the columns `lp` and `qe` (or `dqe`) where the integrator wrote them, else lp = 1/P from the beam model (1 where
that is not of X-rays, files/dials/radiation.py), which is written as such, and qe = 1.  The integrator's `partiality`
is not used, and need not be there (dials.ssx_integrate algorithm=stills writes none): flags tell what is integrated.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dials.array_family import flex
from dials.util import Sorry
from dxtbx import flumpy

from dials_postrefine.files.dials.models import has_crystal
from dials_postrefine.files.dials.radiation import is_xray
from dials_postrefine.files.dials.versions import miller_indices_to_numpy
from dials_postrefine.numerics.indices import pack

INTENSITIES = {"sum": "intensity.sum", "profile": "intensity.prf", "strong_spots": "intensity.sum"}
# No detector counts so much, nor (but for zero) its inverse: damaged numbers, with powers beyond what a float can hold.
LARGEST = 1e30


@dataclass
class Usable:
    """
    The n usable observations, sorted by experiment and index.

    row (n,) of the table, offsets (n_experiments + 1,), h (n, 3) int32, d_star_sq (n,) = |A h|^2 in 1/Angstrom^2;
    intensity, variance (n,) corrected; inverse_variance (n,) of 1/p, zero where the integrator wrote none; n_excluded:
    how many rows are out, by reason.
    """

    row: np.ndarray
    offsets: np.ndarray
    h: np.ndarray
    d_star_sq: np.ndarray
    intensity: np.ndarray
    variance: np.ndarray
    inverse_variance: np.ndarray
    n_excluded: dict[str, int]

    def select(self, mask: np.ndarray, reason: str) -> Usable:
        """The observations where mask (n,) holds; the others are excluded for the reason."""
        n = int(np.count_nonzero(~mask))
        return Usable(
            self.row[mask],
            np.concatenate([[0], np.cumsum(mask)])[self.offsets],
            self.h[mask],
            self.d_star_sq[mask],
            self.intensity[mask],
            self.variance[mask],
            self.inverse_variance[mask],
            self.n_excluded | ({reason: n} if n else {}),
        )


def check_integrated(table, intensity_choice: str) -> None:
    """Raises Sorry where the table holds no integrated intensities of the kind chosen."""
    if not len(table):
        raise Sorry("The .refl files hold no reflections of these lattices: integrate the images first.")
    column = INTENSITIES[intensity_choice]
    if f"{column}.value" not in table or f"{column}.variance" not in table:
        raise Sorry(f"The reflections carry no {column}.value and .variance: integrate first, or set intensity_choice.")
    for key in (f"{column}.value", f"{column}.variance", "lp", "qe", "dqe", "partiality.inv.variance"):
        if key in table and not isinstance(table[key], flex.double):
            raise Sorry(f"The column {key} of the .refl files is damaged, it holds no numbers: integrate again.")
    if intensity_choice == "strong_spots":
        if "xyzcal.px" not in table and "xyzobs.px.value" in table:
            table["xyzcal.px"] = table["xyzobs.px.value"]
        return
    name = "integrated_prf" if intensity_choice == "profile" else "integrated_sum"
    integrated = table.get_flags(getattr(table.flags, name))
    why = None
    if not integrated.count(True):
        why = f"no row has the flag {name}"
    elif are_spot_sums(table, integrated):
        why = f"the rows with the flag {name} are found spots, none a prediction"
    if why:
        raise Sorry(
            f"The reflections are not integrated ({why}): integrate them with dials.stills_process or "
            "dials.ssx_integrate, or set intensity_choice=strong_spots to use spot sums."
        )


def are_spot_sums(table, integrated) -> bool:
    """
    Whether the integrated rows (flex.bool) are sums over spots that were found, as an indexing program may flag them.

    An integrator predicts: it flags its rows so (dials.stills_process, dials.ssx_integrate algorithm=stills), says how
    much of each was recorded (all but algorithm=stills), or has rows where no spot was found (algorithm=ellipsoid).
    """
    flags = table.flags
    if "partiality" in table or table.get_flags(flags.predicted).count(True):
        return False
    found = table.get_flags(flags.strong) | table.get_flags(flags.used_in_refinement)
    return not (integrated & ~found).count(True)


class _Selection:
    """Which of n rows are left, and how many of them each reason has taken out."""

    def __init__(self, n: int):
        self.left, self.n_excluded = np.ones(n, dtype=bool), {}

    def exclude(self, reason: str, mask: np.ndarray) -> None:
        self.n_excluded[reason] = int(np.count_nonzero(mask & self.left))
        self.left[mask] = False


def usable_observations(
    table,
    experiments,
    intensity_choice: str = "sum",
    d_min: float | None = None,
    d_max: float | None = None,
    radiation: str | None = None,
) -> Usable:
    """
    Select and correct the observations (module docstring).

    Out are: of an experiment without a crystal, not integrated, overloaded, excluded by the user, not finite or without
    a positive variance, without a direction s1, with a d* that can't diffract, outside of d_min and d_max (Angstrom);
    each counted under its reason.
    """
    selection = _select_integrated(table, experiments, intensity_choice)
    row, ids = np.flatnonzero(selection.left), flumpy.to_numpy(table["id"])
    h = miller_indices_to_numpy(table["miller_index"])[row]
    order = np.lexsort((pack(h), ids[row]))  # by index within an experiment: the order of the table changes no sum
    row, h = row[order], h[order]
    lattices = np.arange(len(experiments) + 1)
    add_polarisation(table, experiments, radiation)
    correction, d_star_sq = _corrections(table, experiments, row, np.searchsorted(ids[row], lattices), h)
    value, variance = _intensity_columns(table, intensity_choice)
    inside = _Selection(len(row))
    with np.errstate(invalid="ignore", over="ignore"):
        corrected = value[row] * correction, variance[row] * correction**2
        inside.exclude("bad lp or qe", ~((correction > 0.0) & _are_possible(*corrected)))
    inside.exclude("with an index that can't diffract", ~np.isfinite(d_star_sq))
    inside.exclude("outside of d_min and d_max", ~_in_range(d_star_sq, d_min, d_max))
    if not inside.left.all():
        row, h, d_star_sq = row[inside.left], h[inside.left], d_star_sq[inside.left]
        corrected = tuple(x[inside.left] for x in corrected)
    n_excluded = selection.n_excluded | inside.n_excluded
    return Usable(
        row=row,
        offsets=np.searchsorted(ids[row], lattices),
        h=h,
        d_star_sq=d_star_sq,
        intensity=corrected[0],
        variance=corrected[1],
        inverse_variance=_inverse_variance(table, row),
        n_excluded={reason: n for reason, n in n_excluded.items() if n},
    )


def _select_integrated(table, experiments, intensity_choice: str) -> _Selection:
    """Which rows (N,) flags, intensities, directions and indices allow to use."""
    ids, flags = flumpy.to_numpy(table["id"]), flumpy.to_numpy(table["flags"])
    value, variance = _intensity_columns(table, intensity_choice)
    selection = _Selection(len(ids))
    selection.exclude("without a crystal", ~has_crystal(experiments)[ids])
    if intensity_choice != "strong_spots":
        integrated = table.flags.integrated_prf if intensity_choice == "profile" else table.flags.integrated_sum
        selection.exclude("not integrated", flags & int(integrated) == 0)
    selection.exclude("overloaded", flags & int(table.flags.overloaded) != 0)
    selection.exclude("excluded by the user", flags & int(table.flags.user_excluded_in_scaling) != 0)
    with np.errstate(invalid="ignore"):
        selection.exclude("bad intensity or variance", ~_are_possible(value, variance))
        s1 = flumpy.to_numpy(table["s1"])
        length_sq = np.einsum("ij,ij->i", s1, s1)
        selection.exclude("without a direction s1", ~((length_sq > 0.0) & np.isfinite(length_sq)))
    selection.exclude("index 0,0,0", flumpy.to_numpy(table["miller_index"] == (0, 0, 0)))
    return selection


def _intensity_columns(table, intensity_choice: str) -> tuple[np.ndarray, np.ndarray]:
    """The columns (N,) of the intensities chosen and of their variances."""
    column = INTENSITIES[intensity_choice]
    return flumpy.to_numpy(table[f"{column}.value"]), flumpy.to_numpy(table[f"{column}.variance"])


def _in_range(d_star_sq: np.ndarray, d_min: float | None, d_max: float | None) -> np.ndarray:
    """Which d*^2 (n,) lie between the limits (Angstrom; None or 0: there is none)."""
    inside = np.ones(len(d_star_sq), dtype=bool)
    if d_min is not None and d_min > 0.0:
        inside &= d_star_sq <= d_min**-2
    if d_max is not None and d_max > 0.0:
        inside &= d_star_sq >= d_max**-2
    return inside


def _inverse_variance(table, row: np.ndarray) -> np.ndarray:
    """The variances of 1/p that the integrator wrote for the rows (n,), zero where it did not."""
    if "partiality.inv.variance" not in table:
        return np.zeros(len(row))
    written = flumpy.to_numpy(table["partiality.inv.variance"])[row]
    return np.where(np.isfinite(written), np.clip(written, 0.0, LARGEST), 0.0)


def _are_possible(value: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Which intensities and variances are numbers that arithmetic can bear, and the variances positive."""
    size = np.abs(value)
    good = (size < LARGEST) & ((size > 1.0 / LARGEST) | (size == 0.0))
    return good & (variance > 1.0 / LARGEST) & (variance < LARGEST**2)


def _corrections(table, experiments, row, offsets, h) -> tuple[np.ndarray, np.ndarray]:
    """lp/qe (n,) and d*^2 (n,), NaN where d* > 2/wavelength, of the rows."""
    correction = flumpy.to_numpy(table["lp"])[row]
    for efficiency in ("qe", "dqe"):
        if efficiency in table:
            with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                correction /= flumpy.to_numpy(table[efficiency])[row]
            break
    d_star_sq = np.empty(len(row))
    for k, experiment in enumerate(experiments):
        rows = slice(offsets[k], offsets[k + 1])
        if rows.start == rows.stop:  # and perhaps no crystal
            continue
        q = h[rows] @ np.array(experiment.crystal.get_A()).reshape(3, 3).T
        q_sq = np.einsum("ij,ij->i", q, q)
        d_star_sq[rows] = np.where(q_sq * experiment.beam.get_wavelength() ** 2 <= 4.0, q_sq, np.nan)
    return correction, d_star_sq


def add_polarisation(table, experiments, radiation: str | None = None) -> None:
    """
    Give the table the column `lp` = 1/P from the beam models, unless the integrator wrote one; 1 where the radiation
    (files/dials/radiation.py; None: that of each beam model) is not X-rays.

    It stays in the table: a program that starts from the integrated intensities finds the correction there, once.
    """
    if "lp" in table:
        return
    ids, s1 = flumpy.to_numpy(table["id"]), flumpy.to_numpy(table["s1"])
    order = np.argsort(ids, kind="stable")
    offsets = np.searchsorted(ids[order], np.arange(len(experiments) + 1))
    lp = np.ones(len(ids))
    for k, experiment in enumerate(experiments):
        rows, beam = order[offsets[k] : offsets[k + 1]], experiment.beam
        if not is_xray(beam, radiation):
            continue
        normal, fraction = np.array(beam.get_polarization_normal()), beam.get_polarization_fraction()
        lp[rows] = 1.0 / polarisation(s1[rows], np.array(beam.get_s0()), normal, fraction)
    lp[~np.isfinite(lp)] = 1.0  # no direction: such a row is not used
    table["lp"] = flumpy.from_numpy(lp)


def set_polarization_fraction(table, experiments, fraction: float, radiation: str | None = None) -> None:
    """
    Give all beams of X-rays this polarisation fraction; a column `lp` that the integrator wrote follows, from the
    fraction that the beam models had before, lp P(before)/P(fraction).
    """
    ids, s1 = flumpy.to_numpy(table["id"]), flumpy.to_numpy(table["s1"])
    order = np.argsort(ids, kind="stable")
    offsets = np.searchsorted(ids[order], np.arange(len(experiments) + 1))
    lp = flumpy.to_numpy(table["lp"]).copy() if "lp" in table else None
    polarised = [k for k, experiment in enumerate(experiments) if is_xray(experiment.beam, radiation)]
    for k in polarised if lp is not None else ():
        rows, beam = order[offsets[k] : offsets[k + 1]], experiments[k].beam
        geometry = s1[rows], np.array(beam.get_s0()), np.array(beam.get_polarization_normal())
        with np.errstate(invalid="ignore", divide="ignore"):
            lp[rows] *= polarisation(*geometry, beam.get_polarization_fraction()) / polarisation(*geometry, fraction)
    for k in polarised:
        experiments[k].beam.set_polarization_fraction(fraction)
    if lp is not None:
        table["lp"] = flumpy.from_numpy(lp)


def polarisation(s1: np.ndarray, s0: np.ndarray, normal: np.ndarray, fraction: float) -> np.ndarray:
    """
    The polarisation factor of diffracted beams s1 (n, 3), shape (n,), which divides an intensity.

    P = (1 - 2 f)(1 - (n.s1)^2) + f (1 + (s0.s1)^2) with unit vectors, n the normal of the plane of polarisation and f
    the fraction in that plane (DIALS, algorithms/integration/corrections.h; Kahn et al. 1982).
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        s1 = s1 / np.sqrt(np.einsum("ij,ij->i", s1, s1))[:, None]
    s0 = s0 / np.linalg.norm(s0)
    normal = normal / np.linalg.norm(normal)
    return (1.0 - 2.0 * fraction) * (1.0 - (s1 @ normal) ** 2) + fraction * (1.0 + (s1 @ s0) ** 2)
