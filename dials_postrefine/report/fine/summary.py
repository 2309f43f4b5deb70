"""
The JSON summary of dials.fine_refine: the numbers of its log and of its page, which are made from it.

    chi2, n, chi2_reduced, parameters.NAME.value and .esd (.start, .unit, .cut: what more beams would add), scale and
    background of each disk, correlations of parameters, factors, n_evaluations

Units: 1/A^2 for U, A for thickness, 1/A for tilts, pixels for sigma and gamma.  A number that does not exist is null.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from dials_postrefine.electron.fine.parameters import UNITS, kind_of
from dials_postrefine.numerics.disks import Pattern
from dials_postrefine.report.common.remarks import Remark, care, conclude, distrust
from dials_postrefine.report.common.summary import finite

CLOSE = 0.97  # correlation of two parameters that is worth a word
POOR = 2.0  # reduced chi^2
UNLIKE = 3.0  # factor between U'/U of the refined reflections and of the others


def make_summary(
    pattern: Pattern, outcome: Any, cut: Mapping[str, float], factors: Sequence[Any], said: Sequence[str] = ()
) -> dict:
    """The summary (module docstring); said: remarks beside those on the fit."""
    fit, comparison = outcome.fit, outcome.problem.comparison
    esds, free, values = fit.esds(), fit.parameters.free, fit.parameters.values
    p = len(free)
    sigma = np.sqrt(np.diag(fit.covariance)[:p])
    with np.errstate(invalid="ignore", divide="ignore"):
        correlations = fit.covariance[:p, :p] / (sigma[:, None] * sigma)
    by_disk = comparison.correlations(fit.simulated)
    summary = finite(
        {
            "gof": outcome.gof,
            "method": outcome.method,
            "chi2": fit.chi2,
            "n": fit.n,
            "n_parameters": fit.n_parameters,
            "chi2_reduced": fit.chi2_reduced,
            "correlation": float(np.nanmean(by_disk)),
            "parameters": {
                name: {
                    "value": values[name],
                    "esd": esds.get(name),
                    "unit": UNITS[kind_of(name)],
                    "refined": name in free,
                    "cut": cut.get(name),
                }
                for name in values
            },
            "correlations": {"names": list(free), "matrix": correlations.tolist()},
            "disks": [
                {
                    "hkl": name,
                    "n": int(np.count_nonzero(comparison.weight[d])),
                    "scale": fit.linear.scale[d],
                    "background": fit.linear.background[d],
                    "correlation": by_disk[d],
                    "chi2": float(np.sum(fit.linear.residuals[d] ** 2)),
                }
                for d, name in enumerate(pattern.names)
            ],
            "scale": {"value": fit.linear.scale[0], "esd": fit.linear_esds()[0]},
            "factors": [asdict(one) for one in factors],
            "coarse_correlation": outcome.coarse_correlation,
            "displaced": outcome.displaced,
            "n_evaluations": outcome.n_evaluations,
            "course": [float(one) for one in fit.course.chi2],
            "energy": pattern.energy,
        }
    )
    return summary | conclude([*outcome.notes, *remarks(summary, outcome), *said])


def remarks(summary: dict, outcome: Any) -> list[Remark]:
    """The remarks on a summary as it is written."""
    found = []
    if summary["displaced"]:
        found.append(
            distrust(
                "the phases of the refined reflections are not those of the structure",
                "The pattern agrees with the structure only where the origin of the reflections that are not refined "
                "is displaced by twice the pattern's origin_shift: no crystal has such phases, check the data "
                "(origin=structure fits without).",
            )
        )
    if outcome.problem.known_variance and summary["chi2_reduced"] > POOR:
        found.append(
            care(
                f"reduced chi^2 is {summary['chi2_reduced']:.2f}",
                f"Reduced chi^2 is {summary['chi2_reduced']:.2f}: the model or the variances lack something, and the "
                "esds have been multiplied by its root.",
                "chi2_reduced",
            )
        )
    names, matrix = summary["correlations"]["names"], summary["correlations"]["matrix"]
    for i, one in enumerate(names):
        for j in range(i):
            r = matrix[i][j]
            if r is not None and abs(r) > CLOSE:
                found.append(
                    care(
                        "parameters are correlated", f"{names[j]} and {one} are correlated ({r:+.3f}): fix one of them."
                    )
                )
    moved = [
        name
        for name, one in summary["parameters"].items()
        if one["cut"] is not None and one["esd"] and abs(one["cut"]) > 3.0 * one["esd"]
    ]
    if (ratio := _absorption_ratio(summary["parameters"])) is not None and not 1.0 / UNLIKE < ratio < UNLIKE:
        found.append(
            care(
                "the absorption of the other reflections is unlike that of the refined ones",
                f"U'/U of the reflections that are not refined is {ratio:.2g} times that of the refined ones: it may "
                "stand for something that the model lacks; leave absorption out of refine= to keep it fixed.",
                "parameters.absorption",
            )
        )
    if moved:
        found.append(
            f"More beams would move {', '.join(moved)} by more than 3 esds: what the cut on the beams does stands "
            "beside the esd."
        )
    return found


def _absorption_ratio(parameters: dict) -> float | None:
    """U'/U of the reflections that are not refined, where it was, over the largest of those that are."""
    own = [
        one["value"] / parameters[f"U{name[len('Uprime') :]}"]["value"]
        for name, one in parameters.items()
        if name.startswith("Uprime") and one["refined"]
    ]
    if not own or not parameters["absorption"]["refined"] or not max(own) > 0.0:
        return None
    return parameters["absorption"]["value"] / max(own)
