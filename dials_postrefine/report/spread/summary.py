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
from dials_postrefine.numerics.populations import main_value
from dials_postrefine.report.common.images import (
    ImageDataset,
    describe_images,
    describe_losses,
    population_remarks,
)
from dials_postrefine.report.common.remarks import (
    Remark,
    absences_remarks,
    care,
    conclude,
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
    dataset: ImageDataset,
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
    summary = finite(
        {
            "dataset": _dataset(dataset),
            **describe_losses(dataset),
            "settings": asdict(replace(settings, min_angle=float(np.degrees(settings.min_angle)))),
            "spread": _spread(dataset, found),
            "pairs": _pairs(dataset, found) | {"file": pairs_file},
            "random_match": _random_match(found),
            "images": [_image(dataset, found, k) for k in range(dataset.images.n_images)],
            "causes": {
                "ranked": [asdict(cause) for cause in found.causes.ranked],
                "untested": found.causes.untested,
                "left_out": [{"fraction": fraction, **asdict(tau)} for fraction, tau in found.causes.left_out],
            },
            "dynamical": None,
            "compare": None if other is None else _compare({dataset.kind: found.overall, other[0]: other[1]}),
        }
    )
    return summary | conclude([*dataset.remarks, *remarks(summary), *said])


def _dataset(dataset: ImageDataset) -> dict:
    images = dataset.images
    wavelength = 1.0 / np.linalg.norm(images.s0, axis=1)
    return {
        **describe_images(dataset),
        "space_group": dataset.space_group,
        "unit_cell": list(dataset.unit_cell),
        "wavelength": main_value(wavelength),
        "wavelength_min": wavelength.min(),
        "wavelength_max": wavelength.max(),
        "n_images": images.n_images,
        "d_max": images.d_star_sq.min() ** -0.5,
        "d_min": images.d_star_sq.max() ** -0.5,
        "images_taken_as_one": int(np.max(images.last - images.number + 1)),
        "variance": dataset.variance,
        "outliers": dataset.outliers,
        "beam_intensity": dataset.beam_intensity,
    }


def _spread(dataset: ImageDataset, found: ImageSpread) -> dict:
    spread = found.spread
    return {
        "overall": asdict(spread.tau),
        "r_meas": spread.r_meas,
        "n_without_equivalent": spread.n_alone,
        "parts": [{"name": name, **_group(group)} for name, group in spread.parts.items()],
        "quartiles": [_group(group) for group in spread.quartiles],
        "tenths": [_group(group) for group in spread.tenths],
        "shells": [_group(group) for group in spread.shells],
        "experiments": [{"name": name, **asdict(tau)} for name, tau in zip(dataset.experiments, found.by_experiment)],
    }


def _pairs(dataset: ImageDataset, found: ImageSpread) -> dict:
    pairs, names = found.pairs, dataset.experiments
    return {
        "n_found": pairs.n_found,
        "n_analysed": pairs.n_pairs,
        "whole": found.overall.agreement.as_dict(0),
        "experiments": [
            {"first": names[a], "second": names[b], **found.experiment_agreement.as_dict(k)}
            for k, (a, b) in enumerate(found.experiment_pairs)
        ],
        "best": [_pair(dataset, found, k) for k in range(min(MOST_PAIRS, pairs.n_pairs))],
    }


def _compare(spreads: dict[str, Overall]) -> dict:
    """The spread of the intensities beside that of a column of integrated ones."""
    return {
        "columns": {
            name: {"tau": asdict(spread.tau), "r_meas": spread.r_meas, "pairs": spread.agreement.as_dict(0)}
            for name, spread in spreads.items()
        }
    }


def name_image(dataset: ImageDataset, k: int) -> str:
    """What an image is called: its experiment, where there are several, and its number or numbers."""
    images = dataset.images
    first, last = images.number[k], images.last[k]
    number = f"{first}" if first == last else f"{first}-{last}"
    return number if len(dataset.experiments) == 1 else f"{images.experiment[k]}: {number}"


def _group(group: Group) -> dict:
    low, high = group.d_star_sq
    return {
        **asdict(group.tau),
        "intensity": group.intensity,
        "relative_error": group.relative_error,
        "d_max": low**-0.5 if low > 0.0 else None,
        "d_min": high**-0.5 if high > 0.0 else None,
    }


def _pair(dataset: ImageDataset, found: ImageSpread, k: int) -> dict:
    pairs = found.pairs
    return {
        "first": name_image(dataset, pairs.a[k]),
        "second": name_image(dataset, pairs.b[k]),
        "n_common": pairs.n_common[k],
        "jaccard": pairs.jaccard[k],
        "misorientation": np.degrees(pairs.misorientation[k]),
        **found.pair_agreement.as_dict(k),
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
        "n_equivalents": test.n_equivalents,
        "n_permutations": test.n_permutations,
        "n_shells": test.n_shells,
        "n_tested": int(tested.sum()),
        "significant": float(np.mean(test.p[tested] < SIGNIFICANT)) if tested.any() else None,
        "kurtosis": test.kurtosis,
        "p_normal": test.p_normal,
    }


def _image(dataset: ImageDataset, found: ImageSpread, k: int) -> dict:
    images = dataset.images
    return {
        "experiment": dataset.experiments[images.experiment[k]],
        "image": name_image(dataset, k),
        "angle": np.degrees(images.angle[k]),
        **asdict(found.by_image[k]),
        "pairs": found.image_agreement.as_dict(k),
        "factor": 1.0 + found.causes.factors.excess[k],
        "factor_esd": found.causes.factors.esd[k],
        "beam_intensity": images.beam_intensity[k],
        "zone_angle": np.degrees(found.zone_angle[k]),
        "zone_axis": "[" + " ".join(str(i) for i in found.axes[found.zone_axis[k]]) + "]",
    }


def remarks(summary: dict) -> list[Remark]:
    """The remarks on a summary as it is written."""
    dataset = summary["dataset"]
    losses = {reason: n for reason, n in summary["not_used"].items() if reason != OUTLIERS}
    return [
        *population_remarks(dataset),
        *_spread_remarks(summary["spread"]),
        *_random_match_remarks(summary["random_match"]),
        *_error_remarks(summary["pairs"]["whole"]["z_width"]),
        *absences_remarks(summary["absences"], dataset["space_group"], electrons=True),
        *not_used_remarks(losses, dataset["n_input"]),
        *_outlier_remarks(summary["not_used"].get(OUTLIERS, 0), dataset["n_observations"]),
    ]


def _spread_remarks(spread: dict) -> list[Remark]:
    """On tau that can't be told, that is zero, and that is not one number."""
    found, overall, parts = [], spread["overall"], {part["name"]: part for part in spread["parts"]}
    if overall["tau"] is None:
        found.append(
            distrust(
                "too few symmetry equivalents",
                "The observations have too few symmetry equivalents to tell a spread: give more images, or one more "
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
    return found


def _random_match_remarks(test: dict) -> list[Remark]:
    """On residuals that are not normal, and on pairs that are no better than chance."""
    found = []
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
    return found


def _error_remarks(width: float | None) -> list[Remark]:
    """On errors that are too small or too large; width: the robust width of z of all matched spots."""
    if width is None or WIDTH_RANGE[0] <= width <= WIDTH_RANGE[1]:
        return []
    return [
        note(
            f"Differences of pairs are {width:.1f} times as wide as their errors say (z): the errors are "
            f"{'too small' if width > 1.0 else 'too large'}, or the spread is real, as the table of causes tells."
        )
    ]


def _outlier_remarks(excluded: int, n: int) -> list[Remark]:
    """On many outliers of scaling beside n observations that are used."""
    if excluded <= 0.05 * (n + excluded):
        return []
    return [
        care(
            f"{excluded / (n + excluded):.0%} outliers were left out",
            f"{excluded / (n + excluded):.0%} of the observations are outliers to dials.scale and were left out: "
            "with outliers=keep the spread is larger.",
        )
    ]
