"""
The JSON summary: the numbers of the log and of the page, and each lattice with its parameters or the reason of its
rejection.  The page is made from it (stills.py), so that it shows nothing else.

Lengths in Angstrom, angles in degrees, B conventional, of exp(-B d*^2/2), in A^2; a number that does not exist is null.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields

import numpy as np

from dials_postrefine.numerics.populations import MIN_GAP_DISTANCE, describe_groups, main_value
from dials_postrefine.report.common.summary import finite
from dials_postrefine.report.stills.choice import describe_choice
from dials_postrefine.report.stills.course import describe_course
from dials_postrefine.report.stills.diagnostics import Diagnostics, histogram
from dials_postrefine.stills.dataset import Stills
from dials_postrefine.stills.outcome import PostrefinedStills
from dials_postrefine.stills.refinement import Refinement
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


@dataclass(frozen=True)
class DatasetFacts:
    """
    What of a data set is not in its arrays.

    n_excluded: observations that can't be used, by reason; reference: the name of an external one; anomalous: Friedel
    pairs are kept apart; cell_choices: the
    operations of lattices that were indexed with another choice of the cell, and how many; reindexed or not.
    other_cells: cells of another crystal form, and how many.  distances (L,): of the detectors, mm.
    """

    space_group: str
    cell: Sequence[float]
    n_excluded: dict[str, int]
    reference: str | None
    convergence: float
    anomalous: bool = False
    cell_choices: Sequence[tuple[str, int]] = ()
    reindexed: bool = True
    other_cells: Sequence[tuple[Sequence[float], int]] = ()
    distances: np.ndarray = field(default_factory=lambda: np.empty(0))


@dataclass(frozen=True)
class ListedLattices:
    """
    The lattices of a summary, L of each: identifiers, parameters as programs.stills_output.lattice_parameters gives
    them, counts of their observations, and the order of their numbers in which they are to be listed.
    """

    identifiers: Sequence[str]
    parameters: Sequence[dict[str, float]]
    counts: Counts
    order: Sequence[int]


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


def describe_dataset(stills: Stills, result: PostrefinedStills, counts: Counts, facts: DatasetFacts) -> dict:
    """What the data set is, and what of it was merged, as plain numbers and text."""
    wavelength = 1.0 / np.linalg.norm(stills.s0, axis=1)
    n_usable, not_used = usable_and_not(stills, facts.n_excluded)
    names = ("n_merged", "n_outliers", "n_below_threshold", "n_of_rejected")
    return {
        "space_group": facts.space_group,
        "unit_cell": [float(x) for x in facts.cell],
        "wavelength": main_value(wavelength),
        "wavelength_min": float(wavelength.min()),
        "wavelength_max": float(wavelength.max()),
        "wavelengths": [{"wavelength": value, "n_lattices": n} for value, n in describe_groups(wavelength)],
        "detector_distances": [
            {"distance": value, "n_lattices": n} for value, n in describe_groups(facts.distances, MIN_GAP_DISTANCE)
        ],
        "cell_choices": [
            {"operation": name, "n_lattices": n, "reindexed": facts.reindexed} for name, n in facts.cell_choices
        ],
        "other_cells": [{"unit_cell": [float(x) for x in cell], "n_lattices": n} for cell, n in facts.other_cells],
        "n_lattices": stills.n_lattices,
        "n_accepted": int(np.count_nonzero(result.accepted)),
        "n_input": n_usable + sum(not_used.values()),
        "n_observations": n_usable,
        **{name: int(getattr(counts, name).sum()) for name in names},
        "not_used": not_used,
        "reference": facts.reference,
        "anomalous": facts.anomalous,
        "convergence": facts.convergence,
    }


def make_summary(
    refinement: Refinement,
    lattices: ListedLattices,
    dataset: dict,
    diagnostics: Diagnostics,
    symmetry: SymmetryEvidence,
) -> dict:
    """The summary as plain numbers and text; dataset as describe_dataset gives it."""
    result, statistics = refinement.result, refinement.statistics
    collected = asdict(diagnostics)
    for plot in collected["lattice_plots"]:
        plot["identifier"] = lattices.identifiers[plot.pop("number")]
    return finite(
        {
            "dataset": dataset | {"merged_d_max": statistics.d_max, "merged_d_min": statistics.d_min},
            **describe_choice(refinement),
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
            "histograms": parameter_histograms(lattices.parameters, result),
            **collected,
            "lattices": [_describe_lattice(lattices, result, k) for k in lattices.order],
        }
    )


def _describe_lattice(lattices: ListedLattices, result: PostrefinedStills, k: int) -> dict:
    """Lattice k with its parameters, or the reason of its rejection."""
    reason, fit, free, counts = result.reasons[k], result.fits[k], result.free, lattices.counts
    return {
        "identifier": lattices.identifiers[k],
        "accepted": reason is None,
        "reason": None if reason is None else reason.value,
        "n_matched": fit.n_matched,
        "n_kept": fit.n_kept,
        **{count.name: getattr(counts, count.name)[k] for count in fields(counts)},
        "n_iterations": fit.n_iterations,
        "n_free": free.n[k],
        "cc_free_before": free.cc_before[k],
        "cc_free_after": free.cc_after[k],
        "r_free_before": free.r_before[k],
        "r_free_after": free.r_after[k],
        "reverted": free.reverted[k],
        **lattices.parameters[k],
    }


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
            values, esds = (np.array([lattice[key] for lattice in parameters]) for key in (name, name + "_esd"))
            data = histogram(np.where(refined, values, np.nan), esds, result.accepted, logarithmic)
            found[name] = None if data is None else asdict(data)
    return found


def label(name: str, summary: dict) -> str:
    """The symbol and unit of a parameter."""
    symbol, unit = PARAMETERS[name][:2]
    if name == "radius" and summary["radius"] == "mosaic":
        symbol = "r_0"
    return f"{symbol} ({unit})" if unit else symbol
