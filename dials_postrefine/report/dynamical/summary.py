"""
The JSON summary of dials.dynamical: the numbers of its log and of its page, which are made from it.

R1 are fractions, of the observed reflections (I > 3 sigma); angles in degrees, lengths in Angstrom; tau with the ends
of its 95 % interval; a number that does not exist is null.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from dials_postrefine.electron.dynamical.charge import Charge, Part
from dials_postrefine.electron.dynamical.explained import Explained
from dials_postrefine.electron.dynamical.orders import Order
from dials_postrefine.electron.dynamical.residuals import amplitude_residuals, scaled_by_itself
from dials_postrefine.electron.dynamical.results import DynamicalFit, Estimate, HandCandidate
from dials_postrefine.numerics.frames import FrameData
from dials_postrefine.numerics.grouped import even_groups
from dials_postrefine.report.common.explained import describe_explained, explained_findings
from dials_postrefine.report.common.remarks import Remark, care, conclude, distrust, not_used_remarks, note
from dials_postrefine.report.common.summary import finite

N_GROUPS = 10
MOST_POINTS = 5000  # of observed against calculated, on the page
CERTAIN = 3.0  # standard deviations
POOR_R1 = 0.2  # dynamical, above which the model is not that of the data
MOVED = np.radians(0.5)  # by which a frame moves, and it is said


@dataclass(frozen=True)
class FrameDataset:
    """
    What was read: names of experiments or the file of frames, the structure's file, symbol of the space group, unit
    cell (Angstrom, degrees), which intensities with which variances, how many observations were given, how many are
    not used by reason, and notes.
    """

    names: Sequence[str]
    structure: str
    space_group: str
    unit_cell: Sequence[float]
    column: str
    variance: str
    n_input: int
    not_used: dict[str, int]
    notes: Sequence[str | Remark] = ()


@dataclass(frozen=True)
class Asides:
    """What was asked for besides: the charge, the orders of correction and scaling, None and empty where not."""

    charge: Charge | None = None
    orders: Sequence[Order] = ()


def make_summary(
    dataset: FrameDataset,
    data: FrameData,
    fit: DynamicalFit,
    explained: Explained | str,
    asides: Asides = Asides(),
    said: Sequence[str] = (),
) -> dict:
    """
    The summary (module docstring).

    explained: what was found, or why nothing could be; said: remarks beside those on the data.
    """
    structure = fit.structure
    summary = {
        "dataset": _dataset(dataset, data, fit),
        "not_used": dataset.not_used,
        "r1": {
            "kinematical": fit.r1_kinematical,
            "dynamical": fit.r1_dynamical,
            "other_hand": fit.hand.other_r1,
            "n": int(np.count_nonzero(fit.observed)),
        },
        "hand": int(fit.hand.candidates[0].hand) if fit.hand.candidates else 1,
        "hand_deviation": fit.hand.deviation,
        "candidates": [_candidate(one, fit.hand.candidates[0]) for one in fit.hand.candidates],
        "thickness": {**asdict(fit.thickness), "spread": asdict(fit.spread)},
        "absorption": asdict(fit.absorption),
        "mosaicity": _degrees(fit.mosaicity),
        "overall_b": asdict(structure.overall_b),
        "atoms": [
            {"site": site.tolist(), "site_esd": site_esd.tolist(), "b": b, "b_esd": b_esd}
            for site, site_esd, b, b_esd in zip(structure.sites, structure.sites_esd, structure.b, structure.b_esd)
        ],
        "stages": [asdict(stage) for stage in fit.stages],
        "groups": _groups(data, fit),
        "frames": _frames(data, fit),
        **describe_explained(explained if isinstance(explained, str) else explained.as_dict(data.frames.number)),
        "charge": None if asides.charge is None else _charge(asides.charge),
        "orders": [_order(one) for one in asides.orders],
        "thickness_scan": [{"thickness": t, "dynamical": r1} for t, r1 in fit.scanned.tolist()],
        "points": _points(data, fit),
    }
    summary = finite(summary)
    summary["findings"] = findings(summary)
    return summary | conclude([*dataset.notes, *fit.notes, *remarks(summary, fit), *said])


def _dataset(dataset: FrameDataset, data: FrameData, fit: DynamicalFit) -> dict:
    frames, d_star = data.frames, data.d_star
    return {
        "names": list(dataset.names),
        "structure": dataset.structure,
        "space_group": dataset.space_group,
        "unit_cell": list(dataset.unit_cell),
        "wavelength": frames.wavelength,
        "column": dataset.column,
        "variance": dataset.variance,
        "motion": frames.motion,
        "n_input": dataset.n_input,
        "n_observations": data.n,
        "n_observed": int(np.count_nonzero(fit.observed)),
        "n_unique": len(np.unique(data.unique)),
        "n_frames": int(len(np.unique(data.frame))),
        "d_max": 1.0 / d_star.min(),
        "d_min": 1.0 / d_star.max(),
    }


def _degrees(one: Estimate) -> dict:
    return {"value": float(np.degrees(one.value)), "esd": float(np.degrees(one.esd))}


def _candidate(one: HandCandidate, best: HandCandidate) -> dict:
    return {
        "name": one.name,
        "hand": int(one.hand),
        "operation": np.rint(one.operation).astype(int).tolist(),
        "r1": one.r1,
        "log_likelihood": one.log_likelihood,
        "worse_by": best.log_likelihood - one.log_likelihood,
    }


def _groups(data: FrameData, fit: DynamicalFit) -> dict:
    """R1 by resolution, and by intensity, of equal numbers of observed reflections."""
    kept, single = fit.observed, _single_scattering(data, fit)
    found = {}
    for name, value in (("resolution", data.d_star), ("intensity", data.intensity)):
        group = np.full(data.n, -1)
        group[kept] = even_groups(value[kept], N_GROUPS)
        r1 = [amplitude_residuals(data.intensity, one, group, N_GROUPS) for one in (single, fit.dynamical)]
        found[name] = []
        for k in range(N_GROUPS):
            mine = value[group == k]
            if len(mine):
                low, high = float(mine.min()), float(mine.max())
                limits = {"d_max": 1.0 / low, "d_min": 1.0 / high} if name == "resolution" else {"i": np.median(mine)}
                found[name].append({**limits, "n": len(mine), "kinematical": r1[0][k], "dynamical": r1[1][k]})
    return found


def _single_scattering(data: FrameData, fit: DynamicalFit) -> np.ndarray:
    """I of single scattering with the scale and B that fit it best, (n,), as its R1 has them."""
    return scaled_by_itself(data.intensity, fit.kinematical, data.d_star, fit.observed)


def _frames(data: FrameData, fit: DynamicalFit) -> list[dict]:
    frames = data.frames
    group = np.where(fit.observed, data.frame, -1)
    calculated = _single_scattering(data, fit), fit.dynamical
    r1 = [amplitude_residuals(data.intensity, one, group, frames.n) for one in calculated]
    n = np.bincount(group[group >= 0], minlength=frames.n)
    moved = np.degrees(np.linalg.norm(fit.tilt, axis=1))
    tilt, esd = np.degrees(fit.tilt), np.degrees(np.linalg.norm(fit.tilt_esd, axis=1))
    return [
        {
            "number": int(frames.number[f]),
            "sweep": int(frames.sweep[f]),
            "angle": np.degrees(frames.angle[f]),
            "n": int(n[f]),
            "kinematical": r1[0][f],
            "dynamical": r1[1][f],
            "thickness": fit.thicknesses[f],
            "thickness_esd": fit.thicknesses_esd[f],
            "scale": fit.scale[f],
            "scale_esd": fit.scale_esd[f],
            "moved": moved[f],
            "moved_esd": esd[f],
            "tilt": tilt[f].tolist(),
        }
        for f in np.flatnonzero(n)
    ]


def _order(order: Order) -> dict:
    tau = order.tau
    return {
        "name": order.name,
        "r1": order.r1,
        "tau": tau.tau,
        "low": tau.low,
        "high": tau.high,
        "r_meas": order.r_meas,
        "n": tau.n,
    }


def _charge(charge: Charge) -> dict:
    comparison = charge.comparison
    models = [
        {
            "name": name,
            "r1": fit.r1_dynamical,
            "thickness": fit.thickness.value,
            "thickness_esd": fit.thickness.esd,
            "overall_b": fit.structure.overall_b.value,
            "model_error": error,
        }
        for name, fit, error in zip((charge.first, charge.second), charge.fits, comparison.error)
    ]
    resolution = [
        {"d_max": 1.0 / one.low, "d_min": 1.0 / one.high, "n": one.n, "log_ratio": one.log_ratio}
        for one in charge.by_resolution
    ]
    return {
        "models": models,
        "log_ratio": comparison.total,
        "deviation": comparison.deviation,
        "by_resolution": resolution,
        "by_intensity": [_by_intensity(one) for one in charge.by_intensity],
    }


def _by_intensity(one: Part) -> dict:
    return {"i_min": one.low, "i_max": one.high, "n": one.n, "log_ratio": one.log_ratio}


def _points(data: FrameData, fit: DynamicalFit) -> dict:
    """Observed and calculated amplitudes, of many an even part."""
    kept = np.flatnonzero(fit.observed)
    kept = kept[:: max(1, int(np.ceil(len(kept) / MOST_POINTS)))]
    single = _single_scattering(data, fit)
    amplitude = {"observed": data.intensity, "kinematical": single, "dynamical": fit.dynamical}
    return {name: np.round(np.sqrt(np.maximum(i[kept], 0.0)), 4).tolist() for name, i in amplitude.items()}


def remarks(summary: dict, fit: DynamicalFit) -> list[Remark]:
    """The remarks on a summary as it is written."""
    found = not_used_remarks(summary["not_used"], summary["dataset"]["n_input"])
    r1 = summary["r1"]
    if r1["dynamical"] is not None and r1["dynamical"] > POOR_R1:
        found.append(
            distrust(
                f"R1 {r1['dynamical']:.2f}",
                f"R1 is {r1['dynamical']:.3f} with dynamical scattering: structure, setting or thickness are not those "
                "of the crystal; look at the candidates and at R1 by frame.",
                "r1",
            )
        )
    elif r1["dynamical"] is not None and r1["kinematical"] is not None and r1["dynamical"] >= r1["kinematical"]:
        found.append(
            care(
                "dynamical scattering does not fit better",
                f"R1 is {r1['dynamical']:.3f} with dynamical and {r1['kinematical']:.3f} with single scattering: the "
                "data do not show multiple scattering, or the model is not right.",
                "r1",
            )
        )
    deviation = summary["hand_deviation"]
    if r1["other_hand"] is not None and deviation is not None and deviation < CERTAIN:
        found.append(
            care(
                "the hand is not certain",
                f"The better hand is better by {deviation:.1f} standard deviations: more data, or "
                "refine=orientation+structure, are needed to tell.",
                "hand",
            )
        )
    moved = np.linalg.norm(fit.tilt, axis=1)
    if len(moved) and moved.max() > MOVED:
        found.append(
            care(
                "orientations moved far",
                f"{np.count_nonzero(moved > MOVED)} frames moved by more than {np.degrees(MOVED):g} degrees, at most "
                f"{np.degrees(moved.max()):.2f}: look at these frames, or exclude them.",
                "moved",
            )
        )
    if summary["tau"]["why"]:
        found.append(note(f"How much of the spread is explained is not known: {summary['tau']['why']}"))
    return found


def findings(summary: dict) -> list[str]:
    """What the numbers mean, in sentences."""
    r1 = summary["r1"]
    found = [
        f"R1 of {r1['n']} observed reflections is {r1['dynamical']:.3f} with dynamical scattering and "
        f"{r1['kinematical']:.3f} with single scattering."
    ]
    hand, other = summary["hand"], r1["other_hand"]
    if other is not None:
        found.append(
            f"The structure is {'as given' if hand == 1 else 'INVERTED against what was given'}: R1 "
            f"{summary['candidates'][0]['r1']:.3f} against {other:.3f} of the other hand, refined as far"
            + (
                f", {summary['hand_deviation']:.1f} standard deviations of chance."
                if summary["hand_deviation"] is not None
                else "."
            )
        )
    found += explained_findings(summary)
    charge = summary["charge"]
    if charge is not None:
        found.append(_charge_finding(charge))
    return found


def _charge_finding(charge: dict) -> str:
    better = 1 if charge["log_ratio"] > 0.0 else 0
    one, other = charge["models"][better], charge["models"][1 - better]
    sure = charge["deviation"] is not None and abs(charge["log_ratio"]) > CERTAIN * charge["deviation"]
    size = abs(charge["log_ratio"])
    chance = "" if charge["deviation"] is None else f" +- {charge['deviation']:.1f}"
    return (
        f"{one['name'].capitalize()} fit {'better' if sure else 'no better than by chance'} than {other['name']}: ln "
        f"of the likelihood ratio {size:.1f}{chance}, R1 {one['r1']:.4f} against {other['r1']:.4f}."
    )
