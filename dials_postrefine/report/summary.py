"""
The JSON summary: the numbers of the log and of the page, and each lattice with its parameters or the reason of its
rejection.  The page is made from it (stills.py), so that it shows nothing else.

Lengths in Angstrom, angles in degrees, B conventional, of exp(-B d*^2/2), in A^2; a number that does not exist is null.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np

from dials_postrefine.populations import group_values, main_value
from dials_postrefine.report.course import describe_course
from dials_postrefine.report.diagnostics import Diagnostics, histogram
from dials_postrefine.stills.cycles import PostrefinedStills
from dials_postrefine.stills.dataset import Stills
from dials_postrefine.stills.selection import Candidate
from dials_postrefine.stills.statistics import Statistics
from dials_postrefine.stills.symmetry import SymmetryEvidence

ABSENT = "systematically absent"
# Which parameters of a lattice have a histogram, and whether its bins are even in the logarithm.
HISTOGRAMS = {
    "scale": True,
    "b_factor": False,
    "theta_x": False,
    "theta_y": False,
    "radius": False,
    "mosaicity": False,
    "cell_scale": False,
}

FAR_FROM_SETTLED = 10.0  # times the convergence limit, after the last cycle
# Parameters as they are shown: name, unit, factor from the JSON's number, and format.
PARAMETERS = {
    "scale": ("G", "", 1.0, ".3f"),
    "b_factor": ("B", "Å²", 1.0, ".2f"),
    "theta_x": ("theta_x", "degrees", 1.0, ".4f"),
    "theta_y": ("theta_y", "degrees", 1.0, ".4f"),
    "radius": ("r_s", "10⁻³ Å⁻¹", 1000.0, ".3f"),
    "mosaicity": ("eta", "degrees", 1.0, ".4f"),
    "cell_scale": ("epsilon", "%", 100.0, ".4f"),
}
# What is worth a remark: so many lattices rejected; so many observations left out by one test;
# a lack of completeness and multiplicity; residuals so far from unit width; CC1/2 by custom so far above the
# honest one.
MANY_REJECTED = 0.2
MANY_LEFT_OUT = 0.1
ASKED_FOR = ("outside of d_min and d_max", "excluded by the user")  # and no news
INCOMPLETE = 0.9
FEW_OBSERVATIONS = 4.0
MIN_OTHERS, OTHER_FORM = 5, 0.05  # lattices of another crystal form, and as a fraction of all
WIDTH_RANGE = (0.7, 1.4)
TOO_GOOD = 0.1
# The profile does not fit where more than a quarter of the bins is off by 0.1 and three esds.
PROFILE_OFF = (0.1, 3.0, 0.25)


@dataclass
class Counts:
    """
    What became of the observations of each lattice, (L,) each:

    n_input = n_observations + n_not_used                                        (n_absent being among the not used)
    n_observations = n_merged + n_outliers + n_below_threshold + n_of_rejected

    of the usable ones, those of rejected lattices count as that alone.
    """

    n_input: np.ndarray
    n_observations: np.ndarray
    n_not_used: np.ndarray
    n_absent: np.ndarray
    n_merged: np.ndarray
    n_outliers: np.ndarray
    n_below_threshold: np.ndarray
    n_of_rejected: np.ndarray


def count_observations(stills: Stills, result: PostrefinedStills, n_input: np.ndarray) -> Counts:
    """The counts by lattice; n_input (L,) rows of each in the tables."""
    lattice, absent = stills.lattice(), stills.absent[stills.unique]

    def by_lattice(mask: np.ndarray) -> np.ndarray:
        return np.bincount(lattice[mask], minlength=stills.n_lattices)

    accepted, usable = result.accepted[lattice], by_lattice(~absent)
    present = ~absent & accepted
    return Counts(
        n_input=n_input,
        n_observations=usable,
        n_not_used=n_input - usable,
        n_absent=by_lattice(absent),
        n_merged=by_lattice(present & result.kept & ~result.outlier),
        n_outliers=by_lattice(present & result.kept & result.outlier),
        n_below_threshold=by_lattice(present & ~result.kept),
        n_of_rejected=by_lattice(~absent & ~accepted),
    )


def usable_and_not(stills: Stills, n_excluded: dict[str, int]) -> tuple[int, dict[str, int]]:
    """The number of usable observations, and that of the others by reason, systematic absences included."""
    n_absent = int(np.count_nonzero(stills.absent[stills.unique]))
    return len(stills.unique) - n_absent, n_excluded | ({ABSENT: n_absent} if n_absent else {})


def describe_dataset(
    stills: Stills,
    result: PostrefinedStills,
    space_group: str,
    cell: Sequence[float],
    n_excluded: dict[str, int],
    counts: Counts,
    reference: str | None,
    convergence: float,
    cell_choices: Sequence[tuple[str, int]] = (),
    reindexed: bool = True,
    other_cells: Sequence[tuple[Sequence[float], int]] = (),
) -> dict:
    """
    What the data set is, and what of it was merged, as plain numbers and text.

    cell_choices: the operations of lattices that were indexed with another choice of the cell, and how many; reindexed
    or not.  other_cells: cells of another crystal form, and how many.
    """
    wavelength = 1.0 / np.linalg.norm(stills.s0, axis=1)
    n_usable, not_used = usable_and_not(stills, n_excluded)
    names = ("n_merged", "n_outliers", "n_below_threshold", "n_of_rejected")
    return {
        "space_group": space_group,
        "unit_cell": [float(x) for x in cell],
        "wavelength": main_value(wavelength),
        "wavelength_min": float(wavelength.min()),
        "wavelength_max": float(wavelength.max()),
        "wavelengths": [
            {"wavelength": float(np.median(wavelength[group])), "n_lattices": len(group)}
            for group in group_values(wavelength)
        ],
        "cell_choices": [{"operation": name, "n_lattices": n, "reindexed": reindexed} for name, n in cell_choices],
        "other_cells": [{"unit_cell": [float(x) for x in own], "n_lattices": n} for own, n in other_cells],
        "n_lattices": stills.n_lattices,
        "n_accepted": int(np.count_nonzero(result.accepted)),
        "n_input": n_usable + sum(not_used.values()),
        "n_observations": n_usable,
        **{name: int(getattr(counts, name).sum()) for name in names},
        "not_used": not_used,
        "reference": reference,
        "convergence": convergence,
    }


def make_summary(
    identifiers: Sequence[str],
    result: PostrefinedStills,
    statistics: Statistics,
    parameters: Sequence[dict[str, float]],
    merge_command: str,
    diagnostics: Diagnostics,
    dataset: dict,
    counts: Counts,
    symmetry: SymmetryEvidence,
    tried: Sequence[Candidate] = (),
    order: Sequence[int] | None = None,
) -> dict:
    """
    The summary as plain numbers and text; parameters (L) as files.stills.lattice_parameters gives them, order (L,) the
    numbers of the lattices as they are to be listed; counts of their observations.
    """
    lattices, free = [], result.free
    for k in range(len(identifiers)) if order is None else order:
        reason, fit, values = result.reasons[k], result.fits[k], parameters[k]
        lattices.append(
            {
                "identifier": identifiers[k],
                "accepted": reason is None,
                "reason": None if reason is None else reason.value,
                "n_matched": fit.n_matched,
                "n_kept": fit.n_kept,
                **{field.name: getattr(counts, field.name)[k] for field in fields(counts)},
                "n_iterations": fit.n_iterations,
                "n_free": free.n[k],
                "cc_free_before": free.cc_before[k],
                "cc_free_after": free.cc_after[k],
                "r_free_before": free.r_before[k],
                "r_free_after": free.r_after[k],
                "reverted": free.reverted[k],
                **values,
            }
        )
    collected = asdict(diagnostics)
    for plot in collected["lattice_plots"]:
        plot["identifier"] = identifiers[plot.pop("number")]
    summary = finite(
        {
            "dataset": dataset,
            "model": result.model,
            "profile": result.profile,
            "radius": result.radius,
            "unit_cell": result.unit_cell,
            "tried": [asdict(candidate) for candidate in tried],
            "error_model": None if result.error_model is None else asdict(result.error_model),
            "symmetry": asdict(symmetry),
            "free": free_summary(result),
            "median_correlation": {
                when: _median([getattr(result.fits[k], f"correlation_{when}") for k in np.flatnonzero(result.accepted)])
                for when in ("before", "after")
            },
            "before": [asdict(shell) for shell in statistics.before],
            "after": [asdict(shell) for shell in statistics.after],
            "cycles": [asdict(cycle) for cycle in result.cycles],
            "course": describe_course(result, dataset["convergence"]),
            "rejected": count_rejected(result),
            "histograms": parameter_histograms(parameters, result),
            **collected,
            "lattices": lattices,
            "merge_command": merge_command,
        }
    )
    summary["remarks"] = remarks(summary)
    return summary


def count_rejected(result: PostrefinedStills) -> dict[str, int]:
    """Lattices out by reason, most frequent first."""
    return dict(Counter(reason.value for reason in result.reasons if reason is not None).most_common())


def free_summary(result: PostrefinedStills) -> dict | None:
    """The accepted lattices and the free reflections, medians; None where none were held out."""
    free, accepted = result.free, result.accepted
    if not free.n.any():
        return None
    names = ("cc_before", "cc_after", "r_before", "r_after")
    return {
        "n": _median(free.n[accepted]),
        **{name: _median(getattr(free, name)[accepted]) for name in names},
        "n_reverted": int(np.count_nonzero(free.reverted)),
    }


def _median(values: Sequence[float]) -> float:
    """The median of those that exist, NaN of none."""
    values = np.asarray(values, dtype=float)
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else np.nan


def parameter_histograms(parameters: Sequence[dict], result: PostrefinedStills) -> dict:
    """
    The histogram of each parameter that the model has, None where no lattice is accepted.

    Of refined lattices: where only the scale was fitted, the others stand at their start values and have no esd.
    """
    refined = np.array([fit.refined for fit in result.fits])
    wanted = {"mosaicity": result.radius == "mosaic", "cell_scale": result.unit_cell == "scale"}
    found = {}
    for name, logarithmic in HISTOGRAMS.items():
        if wanted.get(name, True):
            values, esds = (np.array([own[key] for own in parameters]) for key in (name, name + "_esd"))
            data = histogram(np.where(refined, values, np.nan), esds, result.accepted, logarithmic)
            found[name] = None if data is None else asdict(data)
    return found


def label(name: str, summary: dict) -> str:
    """The symbol and unit of a parameter."""
    symbol, unit = PARAMETERS[name][:2]
    if name == "radius" and summary["radius"] == "mosaic":
        symbol = "r_0"
    return f"{symbol} ({unit})" if unit else symbol


def wavelength_remark(groups: Sequence[dict]) -> str | None:
    """
    What to do where the wavelengths fall into groups, each with wavelength and n_lattices; None for a single one.

    The tolerance for dials.merge is half of the smallest difference of two groups.
    """
    if len(groups) < 2:
        return None
    found = ", ".join(f"{group['wavelength']:.5f} A ({group['n_lattices']} lattices)" for group in groups)
    values = np.array([group["wavelength"] for group in groups])
    tolerance = 0.5 * np.diff(np.sort(values)).min()
    return (
        f"The lattices are of {len(groups)} wavelengths, {found}, and are merged into one data set: the anomalous "
        "differences of each are lost. Postrefine the lattices of each wavelength by themselves, all against one "
        f"reference=, or let dials.merge keep them apart with wavelength_tolerance={tolerance:.2g}."
    )


def remarks(summary: dict) -> list[str]:
    """What somebody who knows would point at, each a sentence with what to do; the summary as it is written."""
    dataset, after, found = summary["dataset"], summary["after"][-1], []
    n, n_rejected = dataset["n_lattices"], dataset["n_lattices"] - dataset["n_accepted"]
    if n_rejected > MANY_REJECTED * n:
        reason = next(iter(summary["rejected"]))
        found.append(
            f"{n_rejected} of {n} lattices were rejected, most often because of '{reason}': look at the table of "
            "lattices, and at indexing and space group."
        )
    found += [*left_out_remarks(dataset), *symmetry_remarks(summary)]
    remark = wavelength_remark(dataset["wavelengths"])
    if remark:
        found.append(remark)
    for choice in dataset["cell_choices"]:
        done = (
            "they were reindexed."
            if choice["reindexed"]
            else "they were rejected; reindex them by dials.reindex, or let reindex=auto do it."
        )
        found.append(
            f"{choice['n_lattices']} of {n} lattices were indexed with another choice of the unit cell "
            f"(change_of_basis_op={choice['operation']}): {done}"
        )
    for other in dataset["other_cells"]:
        if other["n_lattices"] >= max(MIN_OTHERS, OTHER_FORM * n):
            cell = ", ".join(f"{x:.2f}" for x in other["unit_cell"])
            found.append(
                f"{other['n_lattices']} of {n} lattices have another unit cell ({cell}), which no change of basis "
                "takes to that of the others, and were rejected: if they are another crystal form, postrefine them by "
                "themselves."
            )
    change, course = summary["cycles"][-1]["change"], summary["course"]
    if course["damped_from"] is not None and course["ended"] != "converged" or course["ended"] == "no_lattice":
        found.append(f"{course['words']} A reference=, or more lattices, may help.")
    elif change is not None and change > FAR_FROM_SETTLED * course["limit"]:
        found.append(
            f"The merged intensities still changed by {change:.0%} in the last cycle (limit "
            f"{course['limit']:.1%}): the lattices have too few reflections in common, or too few cycles were allowed; "
            "a reference= may help."
        )
    custom, honest = after["cc_half"], after["cc_half_honest"]
    if custom is not None and honest is not None and custom - honest > TOO_GOOD:
        found.append(
            f"CC1/2 is {custom:.3f} by custom but {honest:.3f} between halves that never saw each other: believe the "
            "latter; more lattices, a simpler model or a reference= make the difference smaller."
        )
    if after["completeness"] is not None and after["completeness"] < INCOMPLETE:
        found.append(
            f"The data are {after['completeness']:.0%} complete: more lattices, or a larger d_min=, are needed."
        )
    if after["multiplicity"] is not None and after["multiplicity"] < FEW_OBSERVATIONS:
        found.append(
            f"Each index was observed {after['multiplicity']:.1f} times on average: too few to tell outliers "
            "and errors well."
        )
    residuals = summary["residuals"]
    groups = residuals["by_intensity"] + residuals["by_resolution"] + residuals["by_partiality"]
    widths = [group["width"] for group in groups]
    if widths and not WIDTH_RANGE[0] <= min(widths) <= max(widths) <= WIDTH_RANGE[1]:
        found.append(
            f"The normalised residuals are between {min(widths):.2f} and {max(widths):.2f} wide where one is right: "
            "the standard deviations are not to be trusted everywhere."
        )
    needed = ("observed", "predicted", "observed_esd")
    bins = [one for one in summary["partiality"]["bins"] if all(one[key] is not None for key in needed)]
    difference, sigmas, share = PROFILE_OFF
    off = [
        one for one in bins if abs(one["observed"] - one["predicted"]) > max(difference, sigmas * one["observed_esd"])
    ]
    if len(off) > share * len(bins):
        found.append(
            f"In {len(off)} of {len(bins)} bins the observed partiality is more than {difference} off the predicted "
            "one: try profile=auto radius=auto unit_cell=auto."
        )
    return found


def left_out_remarks(dataset: dict) -> list[str]:
    """A sentence for each test that leaves out more than a tenth of the observations."""
    found = [
        f"{n} of {dataset['n_input']} observations ({n / dataset['n_input']:.0%}) were not used: {reason}."
        for reason, n in dataset["not_used"].items()
        if n > MANY_LEFT_OUT * dataset["n_input"] and reason not in ASKED_FOR
    ]
    n = dataset["n_observations"] - dataset["n_of_rejected"]
    kept = n - dataset["n_below_threshold"]
    for key, of, words in (
        (
            "n_below_threshold",
            n,
            "are below partiality_threshold= and were not merged: radius or orientation may be off",
        ),
        ("n_outliers", kept, "are outliers and were not merged (outlier_z=): look at space group, indexing and errors"),
    ):
        if dataset[key] > MANY_LEFT_OUT * of:
            found.append(f"{dataset[key]} of {of} observations ({dataset[key] / of:.0%}) {words}.")
    return found


def symmetry_remarks(summary: dict) -> list[str]:
    """A sentence where absences are as strong as the rest, and one for operations that the data do not support."""
    found, absences = [], summary["symmetry"]["absences"]
    group = summary["dataset"]["space_group"]
    if absences["strong"]:
        found.append(
            f"{absences['n']} observations that {group} has as systematically absent are {absences['ratio']:.2f} +- "
            f"{absences['ratio_esd']:.2f} times as strong as the others: centring or screw axis are wrong; set "
            "space_group=."
        )
    wrong = [one for one in summary["symmetry"]["operations"] if one["supported"] is False]
    if wrong:
        named = "; ".join(f"{one['name']} (CC {one['cc']:.2f} of {one['n_pairs']} pairs)" for one in wrong)
        found.append(
            f"Operations of {group} that the intensities do not support: {named}. The group is too high, or the "
            "lattices are indexed in several ways; set space_group= or reindex=auto."
        )
    return found


def write_summary(summary: dict, path: str) -> None:
    """Write a summary as JSON."""
    with open(path, "w", encoding="utf-8") as file:
        json.dump(summary, file, indent=1, allow_nan=False)


def finite(value):
    """The same with plain Python numbers, and None in place of what is not finite."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value
