"""
The remarks of dials.postrefine: what somebody who knows would point at in its summary (remarks.py says what they are).

Each statement of the page that something is good, or should be so and so, is checked here.  The limits:

    CC1/2 of independently refined half sets, or else the conventional one.  The merged intensities correlate with
    the true ones by CC* = sqrt(2 CC1/2 / (1 + CC1/2)) (Karplus & Diederichs, Science 2012, 336, 1030): below 0.143 by
    less than 1/2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from dials_postrefine.numerics.populations import group_values
from dials_postrefine.report.common.remarks import (
    MANY_LEFT_OUT,
    Remark,
    absences_remarks,
    care,
    distance_remarks,
    distrust,
    not_used_remarks,
    note,
)
from dials_postrefine.report.stills.systematics import systematics_remarks
from dials_postrefine.stills.systematics.systematics import Verdict

FAR_FROM_SETTLED = 10.0  # times the convergence limit, after the last cycle
CC_HALF_NOTHING, CC_HALF_LITTLE = 0.143, 0.5
CC_HALF_LIMIT = 0.3  # of the outermost shell
CC_REFERENCE_LITTLE = 0.5
MANY_REJECTED = 0.2
INCOMPLETE = 0.9
FEW_OBSERVATIONS = 4.0
MIN_OTHERS, OTHER_FORM = 5, 0.05  # lattices of another crystal form, and as a fraction of all
WIDTH_RANGE = (0.7, 1.4)
MANY_FAR_OUT = 0.01  # of the residuals, beyond the histogram
TOO_GOOD = 0.1  # conventional CC1/2 above the honest one
WORSE = 0.01  # R_split after above before
# The profile does not fit where more than a quarter of the bins is off by 0.1 and three esds.
PROFILE_OFF = (0.1, 3.0, 0.25)
# A median of the angles is that of all lattices where it is above so many esds and this part of the spread.
TURN_ESDS, TURN = 4.0, 0.5
RADIUS_UNIT = 1e6  # of which no radius is less, so that their logarithms are positive


def remarks(summary: dict) -> list[Remark]:
    """The remarks on a summary as it is written (summary.make_summary)."""
    return [
        *_on_lattices(summary),
        *_on_populations(summary["dataset"]),
        *_on_observations(summary),
        *_on_cycles(summary),
        *_on_agreement(summary),
        *_on_parameters(summary),
        *_on_fit(summary),
        *systematics_remarks(summary["systematics"]),
    ]


def _on_lattices(summary: dict) -> Iterator[Remark]:
    dataset = summary["dataset"]
    n, accepted = dataset["n_lattices"], dataset["n_accepted"]
    if n - accepted > MANY_REJECTED * n:
        why = next(iter(summary["rejected"]))
        yield care(
            f"{n - accepted} of {n} lattices were rejected",
            f"{n - accepted} of {n} lattices were rejected, most often because of '{why}': look at the table of "
            "lattices, and at indexing and space group.",
            "n_accepted",
        )
    if summary["scaled_only"]:
        yield distrust(
            "postrefinement is no better than scaling alone",
            f"Postrefinement was not written: {summary['gain']['words']} More lattices"
            f"{', or a reference=,' if summary['dataset']['reference'] is None else ''} are needed.",
            "n_accepted",
        )
    elif accepted and not any(one["accepted"] and one["refined"] for one in summary["lattices"]):
        yield distrust(
            "no lattice was refined",
            f"None of the {accepted} accepted lattices was refined: they have their scales alone, as too few of their "
            "reflections have a reference intensity. More lattices, or a reference=, are needed.",
            "n_accepted",
        )


def _on_populations(dataset: dict) -> Iterator[Remark]:
    n = dataset["n_lattices"]
    yield from wavelength_remarks(dataset["wavelengths"])
    distances = [(one["distance"], one["n_lattices"]) for one in dataset["detector_distances"]]
    yield from distance_remarks(distances, "lattices")
    for choice in dataset["cell_choices"]:
        said = (
            f"{choice['n_lattices']} of {n} lattices were indexed with another choice of the unit cell "
            f"(change_of_basis_op={choice['operation']}): "
        )
        if choice["reindexed"]:
            yield note(f"{said}they were reindexed.")
        else:
            yield care(
                "lattices of another choice of the cell were rejected",
                f"{said}they were rejected; reindex them by dials.reindex, or let reindex=auto do it.",
            )
    for other in dataset["other_cells"]:
        if other["n_lattices"] >= max(MIN_OTHERS, OTHER_FORM * n):
            cell = ", ".join(f"{x:.2f}" for x in other["unit_cell"])
            yield care(
                f"{other['n_lattices']} lattices have another unit cell",
                f"{other['n_lattices']} of {n} lattices have another unit cell ({cell}), which no change of basis "
                "takes to that of the others, and were rejected: if they are another crystal form, postrefine them by "
                "themselves.",
            )


def wavelength_remarks(groups: Sequence[dict]) -> list[Remark]:
    """
    What to do where the wavelengths fall into groups, each with wavelength and n_lattices.

    The tolerance for dials.merge is half of the smallest difference of two groups.
    """
    if len(groups) < 2:
        return []
    found = ", ".join(f"{group['wavelength']:.5f} A ({group['n_lattices']} lattices)" for group in groups)
    values = np.array([group["wavelength"] for group in groups])
    tolerance = 0.5 * np.diff(np.sort(values)).min()
    return [
        care(
            f"{len(groups)} wavelengths merged into one",
            f"The lattices are of {len(groups)} wavelengths, {found}, and are merged into one data set: the anomalous "
            "differences of each are lost. Postrefine the lattices of each wavelength by themselves, all against one "
            f"reference=, or let dials.merge keep them apart with wavelength_tolerance={tolerance:.2g}.",
        )
    ]


def _on_observations(summary: dict) -> Iterator[Remark]:
    """A remark for each test that leaves out many observations, and on what they say of the space group."""
    dataset = summary["dataset"]
    yield from not_used_remarks(dataset["not_used"], dataset["n_input"])
    yield from partiality_remarks(summary)
    kept = dataset["n_observations"] - dataset["n_of_rejected"] - dataset["n_below_threshold"]
    n_outliers = dataset["n_outliers"]
    if n_outliers > MANY_LEFT_OUT * kept:
        yield care(
            f"{n_outliers / kept:.0%} of the observations are outliers",
            f"{n_outliers} of {kept} observations ({n_outliers / kept:.0%}) are outliers and were not merged "
            "(outlier_z=): look at space group, indexing and errors.",
        )
    group = dataset["space_group"]
    yield from absences_remarks(summary["symmetry"]["absences"], group)
    wrong = [one for one in summary["symmetry"]["operations"] if one["supported"] is False]
    if wrong:
        named = "; ".join(f"{one['name']} (CC {one['cc']:.2f} of {one['n_pairs']} pairs)" for one in wrong)
        yield distrust(
            f"the intensities do not support {group}",
            f"Operations of {group} that the intensities do not support: {named}. The group is too high, or the "
            "lattices are indexed in several ways; set space_group= or reindex=auto.",
        )


def partiality_remarks(summary: dict) -> list[Remark]:
    """
    What to do where more than a tenth of the observations is below the partiality threshold, which depends on whether
    the profile fits (profile_off).
    """
    dataset, after = summary["dataset"], summary["after"][-1]
    n, below = dataset["n_observations"] - dataset["n_of_rejected"], dataset["n_below_threshold"]
    if not below > MANY_LEFT_OUT * n:
        return []
    said = f"{below} of {n} observations ({below / n:.0%}) are below partiality_threshold= and were not merged"
    if profile_off(summary):
        return [note(f"{said}, some perhaps wrongly, as the observed partiality is not the predicted one.")]
    short = [
        f"{after[key]:{pattern}} {words}"
        for key, limit, pattern, words in (
            ("completeness", INCOMPLETE, ".0%", "complete"),
            ("multiplicity", FEW_OBSERVATIONS, ".1f", "times observed"),
        )
        if after[key] is not None and after[key] < limit
    ]
    if short:
        advice = (
            f"what was merged is only {' and '.join(short)}: a lower partiality_threshold= keeps more, at the price of "
            "larger errors"
        )
        return [note(f"{said}; {advice}.")]
    return [
        note(
            f"{said}. The profile fits, so these are spots that were predicted too far from the sphere: nothing is to "
            "be done, or integrate with a narrower prediction."
        )
    ]


def profile_off(summary: dict) -> tuple[int, int] | None:
    """In how many bins of how many the observed partiality is off the predicted one, None where it fits."""
    needed = ("observed", "predicted", "observed_esd")
    bins = [one for one in summary["partiality"]["bins"] if all(one[key] is not None for key in needed)]
    difference, sigmas, share = PROFILE_OFF
    n_off = sum(abs(one["observed"] - one["predicted"]) > max(difference, sigmas * one["observed_esd"]) for one in bins)
    return (n_off, len(bins)) if n_off > share * len(bins) else None


def _on_cycles(summary: dict) -> Iterator[Remark]:
    if summary["scaled_only"]:
        return
    change, course = summary["cycles"][-1]["change"], summary["course"]
    if course["damped_from"] is not None and course["ended"] != "converged" or course["ended"] == "no_lattice":
        yield care("the cycles did not converge", f"{course['words']} A reference=, or more lattices, may help.")
    elif change is not None and change > FAR_FROM_SETTLED * course["limit"]:
        yield care(
            f"merged intensities changed by {change:.0%} in the last cycle",
            f"The merged intensities still changed by {change:.0%} in the last cycle (limit {course['limit']:.1%}): "
            "the lattices have too few reflections in common, or too few cycles were allowed; a reference= may help.",
        )


def _on_agreement(summary: dict) -> Iterator[Remark]:
    before, after = summary["before"][-1], summary["after"][-1]
    conventional, honest = after["cc_half"], after["cc_half_honest"]
    if conventional is not None and honest is not None and conventional - honest > TOO_GOOD:
        yield care(
            f"the conventional CC1/2 is too good by {conventional - honest:.2f}",
            f"The conventional CC1/2 is {conventional:.3f}, that of independently refined half sets {honest:.3f}: "
            "believe the latter; more lattices, a simpler model or a reference= make the difference smaller.",
            "cc_half",
        )
    key = "cc_half" if honest is None else "cc_half_honest"
    found = after[key]
    if found is not None and found < CC_HALF_LITTLE:
        grade, little = (distrust, "nothing") if found < CC_HALF_NOTHING else (care, "little")
        right = np.sqrt(max(0.0, 2.0 * found / (1.0 + found)))
        yield grade(
            f"CC1/2 is {found:.2f}",
            f"CC1/2 of {found:.3f} says that {little} of the merged intensities is reproducible: they correlate with "
            f"the true ones by {right:.2f} at most (CC*). More lattices, or a reference=, are needed.",
            key,
        )
    elif found is not None:
        poor = _outermost(summary["after"][:-1], key)
        if poor is not None:
            yield care(
                f"CC1/2 is below {CC_HALF_LIMIT:g} beyond {poor:.2f} A",
                f"CC1/2 falls below {CC_HALF_LIMIT:g} at {poor:.2f} A: there is little information beyond; set d_min= "
                "there.",
            )
    known = None not in (before["r_split"], after["r_split"]) and not summary["scaled_only"]
    if known and after["r_split"] > before["r_split"] + WORSE:
        yield care(
            "R_split is larger than before",
            f"R_split is {after['r_split']:.3f} where scaling alone has {before['r_split']:.3f}: postrefinement made "
            "the data worse; check orientations and wavelength, or fix= parameters.",
            "r_split",
        )
    reference = after["cc_reference"]
    if summary["dataset"]["reference"] and reference is not None and reference < CC_REFERENCE_LITTLE:
        yield care(
            f"the correlation with the reference is {reference:.2f}",
            f"The merged intensities correlate with the reference by {reference:.3f}: it is of another structure, or "
            "the lattices are indexed in another way.",
            "cc_reference",
        )
    if after["completeness"] is not None and after["completeness"] < INCOMPLETE:
        yield care(
            f"{after['completeness']:.0%} complete",
            f"The data are {after['completeness']:.0%} complete: more lattices, or a larger d_min=, are needed.",
            "completeness",
        )
    if after["multiplicity"] is not None and after["multiplicity"] < FEW_OBSERVATIONS:
        yield care(
            f"multiplicity {after['multiplicity']:.1f}",
            f"Each index was observed {after['multiplicity']:.1f} times on average: too few to tell outliers "
            "and errors well.",
            "multiplicity",
        )


def _outermost(shells: Sequence[dict], key: str) -> float | None:
    """The resolution at which CC1/2 falls below the limit for good, None where it does not."""
    known = [shell for shell in shells if shell[key] is not None]
    good = [k for k, shell in enumerate(known) if shell[key] >= CC_HALF_LIMIT]
    last = good[-1] if good else -1
    return known[last + 1]["d_max"] if last + 1 < len(known) else None


def _on_parameters(summary: dict) -> Iterator[Remark]:
    for name in ("theta_x", "theta_y"):
        data = summary["histograms"].get(name)
        if summary["systematics"][f"beam_direction_{name[-1]}"]["verdict"] == Verdict.DIFFERS.value:
            continue  # said there
        if data is None or data["n"] < 2 or None in (data["median"], data["spread"]):
            continue
        esd = 1.2533 * data["spread"] / np.sqrt(data["n"])  # of the median of a normal distribution
        if abs(data["median"]) > max(TURN_ESDS * esd, TURN * data["spread"]):
            yield care(
                f"all lattices are turned about {name[-1]}",
                f"The lattices are turned by {data['median']:+.3f} degrees about the laboratory {name[-1]} axis on "
                f"average, {abs(data['median']) / esd:.0f} esds from zero: an error that all share, of the beam "
                "direction or the detector; refine geometry (dials.refine) and integrate again.",
            )
    untold = [
        name
        for name, data in summary["histograms"].items()
        if data is not None and None not in (data["spread"], data["median_esd"]) and data["median_esd"] > data["spread"]
    ]
    if untold:
        names = ", ".join(untold)
        yield note(
            f"The standard deviations of {names} are as large as the differences between lattices: the data do not "
            "tell them apart."
        )
    radii = np.array(
        [one["radius"] for one in summary["lattices"] if one["accepted"] and one["refined"] and one["radius"]]
    )
    groups = group_values(np.log(radii * RADIUS_UNIT)) if len(radii) else []
    if len(groups) > 1:
        found = ", ".join(f"{1000.0 * np.median(radii[group]):.2f} ({len(group)} lattices)" for group in groups)
        yield note(
            f"The radii r_s fall into {len(groups)} groups, {found} 0.001/A: two kinds of crystals, or two settings of "
            "the beam."
        )


def _on_fit(summary: dict) -> Iterator[Remark]:
    """Residuals and profile."""
    residuals = summary["residuals"]
    groups = residuals["by_intensity"] + residuals["by_resolution"] + residuals["by_partiality"]
    widths = [group["width"] for group in groups]
    if widths and not WIDTH_RANGE[0] <= min(widths) <= max(widths) <= WIDTH_RANGE[1]:
        yield care(
            "standard deviations are off",
            f"The normalised residuals are between {min(widths):.2f} and {max(widths):.2f} wide where one is right: "
            "the standard deviations are not to be trusted everywhere.",
            "i_over_sigma",
        )
    far = residuals["below"] + residuals["above"]
    if residuals["n"] and far > MANY_FAR_OUT * residuals["n"]:
        yield care(
            f"{far / residuals['n']:.0%} of the residuals are far out",
            f"{far} of {residuals['n']} residuals ({far / residuals['n']:.1%}) are beyond what the histogram shows, "
            "where there should be next to none: a part of the lattices is indexed wrongly, or spots overlap.",
        )
    off = profile_off(summary)
    if off is not None and not summary["scaled_only"]:
        yield care(
            "the profile does not fit",
            f"In {off[0]} of {off[1]} bins the observed partiality is more than {PROFILE_OFF[0]} off the predicted "
            "one: the profile is another one, or orientations, cell or wavelength are off.",
        )
