"""
The JSON summary of dials.intensity_model: the numbers of its log and of its page, which are made from it.

R1 are fractions, with their standard deviations; a number that does not exist is null.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from dials_postrefine.electron.trees.intensitymodel import R1, Prediction
from dials_postrefine.report.common.images import (
    ImageDataset,
    describe_images,
    describe_losses,
    name_column,
    population_remarks,
)
from dials_postrefine.report.common.remarks import (
    Remark,
    absences_remarks,
    care,
    conclude,
    distrust,
    not_used_remarks,
)
from dials_postrefine.report.common.summary import finite

FEATURES = {
    "index": "index h, k, l",
    "resolution": "resolution",
    "orientation": "orientation of the beam",
    "excitation": "excitation error",
    "scale": "scale factor",
    "background": "background",
    "f_calc": "|F_calc|",
}
# By how many standard deviations R1 must differ to say so.
CERTAIN = 3.0


@dataclass(frozen=True)
class Training:
    """
    How the trees were trained: split, None by data sets to train on and to test on; the path of the model, None without
    one; the names of the features; notes on the data and the model.
    """

    split: str | None
    model: str | None
    features: Sequence[str]
    notes: Sequence[str | Remark]


def make_summary(
    dataset: ImageDataset,
    training: Training,
    prediction: Prediction,
    other: tuple[str, Prediction] | None = None,
    said: Sequence[str] = (),
) -> dict:
    """
    The summary (module docstring).

    other: a kind of integrated intensities (COLUMNS), and what was learned from them; said: remarks beside those on the
    data.
    """
    apart, n_parts = training.split is None, int(prediction.fold.max()) + 1
    summary = {
        "dataset": {
            **describe_images(dataset),
            "n_predicted": int(np.count_nonzero(np.isfinite(prediction.predicted[prediction.best]))),
            "predicted_by": prediction.best,
            "model": training.model,
            "split": "train and test data sets" if apart else f"split={training.split}, {n_parts} parts",
            "scaled_to": None if training.model is None else "the training data" if apart else "all data",
        },
        **describe_losses(dataset),
        "features": training.features,
        "overall": _describe_r1(prediction.overall),
        "experiments": [
            {"name": dataset.experiments[k], **_describe_r1(found)} for k, found in prediction.by_experiment
        ],
        "gain": asdict(prediction.gain),
        "importances": {
            trees: {name: {"growth": mean, "esd": esd} for name, (mean, esd) in found.items()}
            for trees, found in prediction.importances.items()
        },
        "compare": None if other is None else {"column": other[0], "overall": _describe_r1(other[1].overall)},
    }
    summary = finite(summary)
    summary["findings"] = findings(summary)
    return summary | conclude([*training.notes, *remarks(summary, dataset.space_group), *said])


def _describe_r1(found: dict[str, R1]) -> dict:
    return {name: asdict(r1) for name, r1 in found.items()}


def remarks(summary: dict, group: str) -> list[Remark]:
    """The remarks on a summary as it is written; group: the symbol of the space group."""
    found = [
        *absences_remarks(summary["absences"], group, electrons=True),
        *population_remarks(summary["dataset"]),
        *not_used_remarks(summary["not_used"], summary["dataset"]["n_input"]),
    ]
    trees, equivalents = (summary["overall"].get(name, {}).get("value") for name in ("trees", "equivalents"))
    if trees is None:
        found.append(distrust("nothing was predicted", "No observation could be predicted: give more data.", "trees"))
    elif equivalents is not None and trees > equivalents:
        found.append(
            care(
                "the mean of symmetry equivalents predicts better",
                f"The mean of symmetry equivalents predicts better than the trees (R1 {equivalents:.3f} against "
                f"{trees:.3f}): what these learned is less than what the symmetry says.",
                "trees",
            )
        )
    return found


def findings(summary: dict) -> list[str]:
    """What the numbers mean, in sentences."""
    overall, found = summary["overall"], []

    def value(name: str) -> float | None:
        return overall.get(name, {}).get("value")

    if value("equivalents") is not None:
        loses = value("trees") > value("equivalents")
        found.append(
            f"Trees alone {'lose to' if loses else 'are better than'} the mean of symmetry equivalents: R1 "
            f"{value('trees'):.3f} against {value('equivalents'):.3f}."
        )
    else:
        found.append(
            "The training data have no symmetry equivalents of what was predicted: there is no mean to compare with."
        )
    gain = summary["gain"]
    if gain["value"] is not None:
        certain = gain["value"] > CERTAIN * gain["esd"]
        found.append(
            f"Trees with |F_calc| {'beat' if certain else 'do not beat'} |F_calc| alone: R1 {value('both'):.3f} "
            f"against {value('f_calc'):.3f}, a gain of {gain['value']:+.3f} +- {gain['esd']:.3f}."
        )
        dependence = {
            name: one
            for name, one in summary["importances"]["both"].items()
            if certain and one["growth"] > max(CERTAIN * one["esd"], 0.01 * value("f_calc"))
        }
        if dependence:
            ranked = sorted(dependence, key=lambda name: -dependence[name]["growth"])
            listed = ", ".join(f"{FEATURES[name]} ({dependence[name]['growth']:.3f})" for name in ranked)
            found.append(f"F/|F_calc| depends on, by how much R1 grows without: {listed}.")
        else:
            found.append("No dependence of F/|F_calc| on any feature was found.")
    other = summary["compare"]
    if other is not None and other["overall"]["trees"]["value"] is not None:
        found.append(
            f"Learned from the integrated values ({name_column(other['column'])}) the trees have R1 "
            f"{other['overall']['trees']['value']:.3f} in place of {value('trees'):.3f}."
        )
    return found
