"""
The JSON summary of dials.image_spread: the numbers of its log and of its page, which are made from it.

tau is a fraction, with the ends of its 95 % interval; angles in degrees, lengths in Angstrom; a number that does not
exist is null.
"""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np

from dials_postrefine.electron.imagespread import Group, ImageSpread, Overall, SpreadSettings
from dials_postrefine.files.scaled_images import COLUMNS, ImageChoice, ImageFiles
from dials_postrefine.populations import main_value
from dials_postrefine.report.summary import finite

# Of the pairs so many are in the summary; the table of all is image_pairs.csv.
MOST_PAIRS = 100
# The test for random pairs takes scores for normally distributed; below this probability they are not.
NOT_NORMAL = 0.01
# A pair is told from random ones at this p.
SIGNIFICANT = 0.05
FLAT = 2.5  # tau of the weakest over that of the strongest tenth, up to which it is called flat


def make_summary(
    files: ImageFiles,
    choice: ImageChoice,
    settings: SpreadSettings,
    found: ImageSpread,
    other: tuple[str, Overall] | None = None,
) -> dict:
    """The summary (module docstring); other: a column of integrated intensities by name, and its spread."""
    images, mates, pairs = files.images, found.mates, found.pairs
    wavelength = 1.0 / np.linalg.norm(images.s0, axis=1)
    summary = {
        "dataset": {
            "experiments": files.identifiers,
            "space_group": files.space_group.type().lookup_symbol(),
            "unit_cell": list(files.cell),
            "wavelength": main_value(wavelength),
            "n_images": images.n_images,
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
        "remarks": list(files.remarks),
    }
    summary = finite(summary)
    summary["remarks"] += remarks(summary)
    return summary


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


def remarks(summary: dict) -> list[str]:
    """What is worth a word."""
    found, test = [], summary["random_match"]
    overall, parts = summary["spread"]["overall"], {part["name"]: part for part in summary["spread"]["parts"]}
    if overall["low"] == 0.0:
        found.append("There is no excess spread: the intensities differ by no more than their errors allow.")
    weak, strong = parts["weakest half"], parts["strongest tenth"]
    if overall["low"] and weak["tau"] and strong["tau"]:
        if weak["tau"] > FLAT * strong["tau"]:
            found.append(
                f"The relative spread is not one number: {weak['tau']:.2f} of the weakest half and {strong['tau']:.2f} "
                "of the strongest tenth. An error model with one b makes strong reflections too uncertain."
            )
    if test["p_normal"] is not None and test["p_normal"] < NOT_NORMAL:
        found.append(
            f"The residuals of ln I are not normally distributed (kurtosis {test['kurtosis']:.1f}): take the "
            "significance of pairs from the permutations (p), not from the posterior."
        )
    excluded = summary["not_used"].get("outliers of scaling", 0)
    n = summary["dataset"]["n_observations"]
    if excluded > 0.05 * (n + excluded):
        found.append(
            f"{excluded / (n + excluded):.0%} of the observations are outliers to dials.scale and were left out: with "
            "outliers=keep the spread is larger."
        )
    return found
