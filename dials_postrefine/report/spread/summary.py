"""
The JSON summary of dials.image_spread: the numbers of its log and of its page, which are made from it.

tau is a fraction, with the ends of its 95 % interval; angles in degrees, lengths in Angstrom; a number that does not
exist is null.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np

from dials_postrefine.electron.spread.imagespread import Group, ImageSpread, Overall, SpreadSettings
from dials_postrefine.files.electron.scaled_images import COLUMNS, ImageChoice, ImageFiles
from dials_postrefine.numerics.populations import main_value
from dials_postrefine.report.common.remarks import (
    Remark,
    absences_remarks,
    care,
    conclude,
    distance_remarks,
    distrust,
    not_used_remarks,
    note,
)
from dials_postrefine.report.common.summary import finite

# Of the pairs so many are in the summary; the table of all is a file of its own.
MOST_PAIRS = 100
# The test for random pairs takes scores for normally distributed; below this probability they are not.
NOT_NORMAL = 0.01
# A pair is told from random ones at this p.
SIGNIFICANT = 0.05
WIDTH_RANGE = (0.7, 1.4)
CERTAIN = 3.0  # standard deviations
OUTLIERS = "outliers of scaling"  # have their own remark
FLAT = 2.5  # tau of the weakest over that of the strongest tenth, up to which it is called flat


def make_summary(
    files: ImageFiles,
    choice: ImageChoice,
    settings: SpreadSettings,
    found: ImageSpread,
    other: tuple[str, Overall] | None = None,
    pairs_file: str | None = None,
    said: Sequence[str] = (),
) -> dict:
    """
    The summary (module docstring); other: a column of integrated intensities by name, and its spread; pairs_file: what
    the table of all pairs is called, None where it is not written; said: remarks beside those on the data.
    """
    images, mates, pairs = files.images, found.mates, found.pairs
    wavelength = 1.0 / np.linalg.norm(images.s0, axis=1)
    summary = {
        "dataset": {
            "experiments": files.identifiers,
            "space_group": files.space_group.type().lookup_symbol(),
            "unit_cell": list(files.cell),
            "wavelength": main_value(wavelength),
            "wavelength_min": wavelength.min(),
            "wavelength_max": wavelength.max(),
            **describe_populations(files),
            "n_images": images.n_images,
            "n_input": files.n_input,
            "n_observations": len(images.h),
            "n_unique": len(np.unique(images.unique)),
            "d_max": images.d_star_sq.min() ** -0.5,
            "d_min": images.d_star_sq.max() ** -0.5,
            "images_taken_as_one": int(np.max(images.last - images.number + 1)),
            "column": f"{COLUMNS[choice.intensity]}.value",
            "variance": choice.variance if choice.intensity == "scale" else "of the column",
            "outliers": "kept" if choice.keep_outliers else "excluded",
            "beam_intensity": files.beam_source,
        },
        "absences": asdict(files.absences()),
        "not_used": files.n_excluded,
        "settings": asdict(replace(settings, min_angle=float(np.degrees(settings.min_angle)))),
        "spread": {
            "overall": asdict(mates.tau),
            "r_meas": mates.r_meas,
            "n_without_mate": mates.n_alone,
            "parts": [{"name": name, **_group(group)} for name, group in mates.parts.items()],
            "quartiles": [_group(group) for group in mates.quartiles],
            "tenths": [_group(group) for group in mates.tenths],
            "shells": [_group(group) for group in mates.shells],
            "experiments": [{"name": name, **asdict(tau)} for name, tau in zip(files.identifiers, found.by_experiment)],
        },
        "pairs": {
            "n_found": pairs.n_found,
            "n_analysed": pairs.n_pairs,
            "file": pairs_file,
            "whole": found.overall.agreement.of(0),
            "experiments": [
                {"first": files.identifiers[a], "second": files.identifiers[b], **found.of_experiments.of(k)}
                for k, (a, b) in enumerate(found.experiment_pairs)
            ],
            "best": [_pair(files, found, k) for k in range(min(MOST_PAIRS, pairs.n_pairs))],
        },
        "random_match": _random_match(found),
        "images": [_image(files, found, k) for k in range(images.n_images)],
        "causes": {
            "ranked": [asdict(cause) for cause in found.causes.ranked],
            "untested": found.causes.untested,
            "left_out": [{"fraction": fraction, **asdict(tau)} for fraction, tau in found.causes.left_out],
        },
        "compare": None if other is None else _compare(choice.intensity, found.overall, *other),
    }
    summary = finite(summary)
    return summary | conclude([*files.remarks, *remarks(summary), *said])


def describe_populations(files: ImageFiles) -> dict:
    """The groups of wavelengths and of detector distances."""
    return {
        "wavelengths": [{"wavelength": value, "n_images": n} for value, n in files.wavelengths()],
        "detector_distances": [{"distance": value, "n_images": n} for value, n in files.detector_distances()],
    }


def population_remarks(dataset: dict) -> list[Remark]:
    """A remark where wavelengths, and one where detector distances fall into groups (describe_populations)."""
    found, groups = [], dataset["wavelengths"]
    if len(groups) > 1:
        named = ", ".join(f"{one['wavelength']:.5f} A ({one['n_images']} images)" for one in groups)
        found.append(
            care(
                f"{len(groups)} wavelengths",
                f"The images are of {len(groups)} wavelengths, {named}: what differs between these (dispersion, "
                "multiple scattering) is taken for a spread of one crystal form; analyse each wavelength by itself.",
            )
        )
    distances = [(one["distance"], one["n_images"]) for one in dataset["detector_distances"]]
    return found + distance_remarks(distances, "images")


def _compare(intensity: str, own: Overall, column: str, other: Overall) -> dict:
    """The spread of the intensities beside that of a column of integrated ones."""
    return {
        "columns": {
            name: {"tau": asdict(one.tau), "r_meas": one.r_meas, "pairs": one.agreement.of(0)}
            for name, one in ((intensity, own), (column, other))
        }
    }


def name_image(files: ImageFiles, k: int) -> str:
    """What an image is called: its experiment, where there are several, and its number or numbers."""
    images = files.images
    first, last = images.number[k], images.last[k]
    number = f"{first}" if first == last else f"{first}-{last}"
    return number if len(files.identifiers) == 1 else f"{images.experiment[k]}: {number}"


def _group(group: Group) -> dict:
    low, high = group.d_star_sq
    return {
        **asdict(group.tau),
        "intensity": group.intensity,
        "relative_error": group.relative_error,
        "d_max": low**-0.5 if low > 0.0 else None,
        "d_min": high**-0.5 if high > 0.0 else None,
    }


def _pair(files: ImageFiles, found: ImageSpread, k: int) -> dict:
    pairs = found.pairs
    return {
        "first": name_image(files, pairs.a[k]),
        "second": name_image(files, pairs.b[k]),
        "n_common": pairs.n_common[k],
        "jaccard": pairs.jaccard[k],
        "misorientation": np.degrees(pairs.misorientation[k]),
        **found.of_pairs.of(k),
        "llr": found.random_match.llr[k],
        "posterior": found.random_match.posterior[k],
        "p": found.random_match.p[k],
    }


def _random_match(found: ImageSpread) -> dict:
    test = found.random_match
    tested = np.isfinite(test.p)
    return {
        "auc": test.auc,
        "auc_esd": test.auc_esd,
        "rho": test.rho,
        "n_mates": test.n_mates,
        "n_permutations": test.n_permutations,
        "n_shells": test.n_shells,
        "n_tested": int(tested.sum()),
        "significant": float(np.mean(test.p[tested] < SIGNIFICANT)) if tested.any() else None,
        "kurtosis": test.kurtosis,
        "p_normal": test.p_normal,
    }


def _image(files: ImageFiles, found: ImageSpread, k: int) -> dict:
    images, agreement = files.images, found.of_images
    return {
        "experiment": files.identifiers[images.experiment[k]],
        "image": name_image(files, k),
        "angle": np.degrees(images.angle[k]),
        **asdict(found.by_image[k]),
        "pairs": agreement.of(k),
        "factor": 1.0 + found.causes.factors.excess[k],
        "factor_esd": found.causes.factors.esd[k],
        "beam_intensity": images.beam_intensity[k],
        "zone_angle": np.degrees(found.zone_angle[k]),
        "zone_axis": "[" + " ".join(str(i) for i in found.axes[found.zone_axis[k]]) + "]",
    }


def remarks(summary: dict) -> list[Remark]:
    """The remarks on a summary as it is written."""
    found, test = [], summary["random_match"]
    overall, parts = summary["spread"]["overall"], {part["name"]: part for part in summary["spread"]["parts"]}
    found += population_remarks(summary["dataset"])
    if overall["tau"] is None:
        found.append(
            distrust(
                "too few symmetry mates",
                "The observations have too few symmetry mates to tell a spread: give more images, or one more "
                "symmetric space_group=.",
                "tau",
            )
        )
    if overall["low"] == 0.0:
        found.append(note("There is no excess spread: the intensities differ by no more than their errors allow."))
    weak, strong = parts["weakest half"], parts["strongest tenth"]
    if overall["low"] and weak["low"] and strong["tau"] is not None:  # whose spread may well be none
        if weak["tau"] > FLAT * strong["tau"]:
            found.append(
                care(
                    "the relative spread is not one number",
                    f"The relative spread is not one number: {weak['tau']:.2f} of the weakest half and "
                    f"{strong['tau']:.2f} of the strongest tenth. An error model with one b makes strong reflections "
                    "too uncertain.",
                    "tau",
                )
            )
    if test["p_normal"] is not None and test["p_normal"] < NOT_NORMAL:
        found.append(
            note(
                f"The residuals of ln I are not normally distributed (kurtosis {test['kurtosis']:.1f}): take the "
                "significance of pairs from the permutations (p), not from the posterior."
            )
        )
    if None not in (test["auc"], test["auc_esd"]) and test["auc"] - 0.5 < CERTAIN * test["auc_esd"]:
        found.append(
            care(
                "matched pairs of images are not told from random ones",
                f"Matched pairs of images do no better than random ones (AUC {test['auc']:.2f} +- "
                f"{test['auc_esd']:.2f}): indexing or scaling is wrong, or the spots in common are too few "
                "(min_common=).",
                "auc",
            )
        )
    width = summary["pairs"]["whole"]["z_width"]
    if width is not None and not WIDTH_RANGE[0] <= width <= WIDTH_RANGE[1]:
        found.append(
            note(
                f"Differences of pairs are {width:.1f} times as wide as their errors say (z): the errors are "
                f"{'too small' if width > 1.0 else 'too large'}, or the spread is real, as the table of causes tells."
            )
        )
    found += absences_remarks(summary["absences"], summary["dataset"]["space_group"], electrons=True)
    others = {reason: n for reason, n in summary["not_used"].items() if reason != OUTLIERS}
    found += not_used_remarks(others, summary["dataset"]["n_input"])
    excluded = summary["not_used"].get(OUTLIERS, 0)
    n = summary["dataset"]["n_observations"]
    if excluded > 0.05 * (n + excluded):
        found.append(
            care(
                f"{excluded / (n + excluded):.0%} outliers were left out",
                f"{excluded / (n + excluded):.0%} of the observations are outliers to dials.scale and were left out: "
                "with outliers=keep the spread is larger.",
            )
        )
    return found
