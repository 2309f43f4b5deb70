"""
The summary of dials.diffuse_model, which is its JSON:

    chosen              the name of the model that is chosen, "background" where none is better than it
    reindex_operation   what the map's h, k, l are in terms of the model's
    models              by name, of the best variant: parameters (value, esd, unit, determined), scale (held: not
                        fitted), chi2_reduced and r of the voxels that were fitted, bic (chi^2 + p ln n of them, above
                        the lowest one), cc_anisotropic of all voxels, cc_held_out, chi2_held_out, by how many standard
                        deviations it is worse than the best one (worse_by), variant, n_parameters, correlations of the
                        parameters and the scale, shells; of a covariance that was inferred also covariance: the names
                        of its groups, v and esd (Angstrom^2)
    variants            the figures of all variants
    decision            how the model was chosen, a sentence
    dataset, verdict, remarks
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from dials_postrefine.diffuse.model.agreement import anisotropic_correlation, by_shell
from dials_postrefine.diffuse.model.comparison import LIMIT
from dials_postrefine.diffuse.model.voxels import Voxels
from dials_postrefine.numerics.shells import equal_width_edges
from dials_postrefine.report.common.remarks import Remark, care, conclude, distrust, note
from dials_postrefine.report.common.summary import finite

POOR_CC = 0.3  # of held-out voxels, below which little is explained
MISFIT = 1.3  # chi^2 above which something is not explained
CORRELATED = 0.9
MOST_NAMED = 6
MOST_CORRELATED = 12  # parameters of a model whose correlations are told


def make_summary(description: dict, voxels: Voxels, found, n_shells: int, notes: Sequence[str]) -> dict:
    """The summary (module docstring) of fitted models (programs.diffuse_model_fits.FittedModels)."""
    edges = equal_width_edges(description["d_max"], description["d_min"], n_shells)
    edges[0], edges[-1] = edges[0] * (1.0 - 1e-9), edges[-1] * (1.0 + 1e-9)
    models = {name: _describe(one, voxels, edges) for name, one in found.models.items()}
    summary = {
        "chosen": found.chosen,
        "reindex_operation": description["reindex_operation"],
        "models": models,
        "variants": [
            {"model": one.candidate.name, "variant": one.candidate.variant, **_figures(one, voxels)}
            for one in found.variants
        ],
        "dataset": {name: value for name, value in description.items() if not name.startswith("_")},
    }
    summary = finite(summary)
    _from_lowest_bic(summary)
    summary["decision"] = decision(summary)
    if found.absolute and summary["chosen"] != "background":
        notes = [
            *notes,
            note("The scale is held at 1, that of a map in squared electrons a unit cell; scale=free fits it."),
        ]
    return summary | conclude([*_remarks(summary), *found.notes, *notes])


def _figures(one, voxels: Voxels) -> dict:
    fit, held = one.fit, voxels.held_out
    every = np.ones(len(voxels), bool)
    squares = (voxels.intensity - fit.calculated) ** 2 / fit.variance
    difference = np.abs(voxels.intensity - fit.calculated)
    return {
        "chi2_reduced": fit.chi_sq,
        "chi2_held_out": squares[held].mean() if held.any() else None,
        "cc_anisotropic": anisotropic_correlation(voxels.intensity, fit.calculated, voxels.s, every),
        "cc_held_out": anisotropic_correlation(voxels.intensity, fit.calculated, voxels.s, held),
        "r": difference[~held].sum() / np.abs(voxels.intensity[~held]).sum(),
        "n_parameters": len(fit.correlations),
        "bic": one.bic,
        "values": dict(zip(fit.names, fit.values)),
    }


def _describe(one, voxels: Voxels, edges: np.ndarray) -> dict:
    fit = one.fit
    figures = _figures(one, voxels)
    del figures["values"]
    return {
        "variant": one.candidate.variant,
        "parameters": {
            name: {"value": value, "esd": esd, "unit": unit, "determined": name not in fit.undetermined}
            for name, value, esd, unit in zip(fit.names, fit.values, fit.esds, fit.units)
        },
        "scale": {"value": fit.scale, "esd": fit.scale_esd, "held": len(fit.correlations) == len(fit.values)},
        **figures,
        "worse_by": one.worse,
        "converged": fit.converged,
        "correlations": _correlations(fit),
        **_inferred(one),
        "shells": [
            asdict(shell) for shell in by_shell(voxels.intensity, fit.calculated, fit.variance, voxels.s, edges)
        ],
    }


def _correlations(fit) -> dict:
    """The correlations of parameters and scale; of many parameters, each of which means nothing alone, none."""
    if len(fit.names) > MOST_CORRELATED:
        return {"names": [], "matrix": []}
    return {"names": [*fit.names, "scale"][: len(fit.correlations)], "matrix": fit.correlations.tolist()}


def _inferred(one) -> dict:
    """V of groups that was inferred from the map, with standard deviations."""
    candidate = one.candidate
    motions = candidate.motions(one.fit) if candidate.motions else None
    if motions is None or not motions.names:
        return {}
    return {"covariance": {"groups": list(motions.names), "v": motions.v.tolist(), "esd": motions.esds.tolist()}}


def _from_lowest_bic(summary: dict) -> None:
    """BICs as differences from the lowest one, that of a variant that is not shown included."""
    every = [*summary["models"].values(), *summary["variants"]]
    lowest = min(one["bic"] for one in every)
    for one in every:
        one["bic"] -= lowest


def decision(summary: dict) -> str:
    """How the model was chosen, in a sentence."""
    chosen, models = summary["chosen"], summary["models"]
    alike = [
        name for name, one in models.items() if name != chosen and one["worse_by"] < LIMIT and _scatters(name, one)
    ]
    others = {name: one for name, one in models.items() if name != chosen and name not in alike}
    next_one = min(others, key=lambda name: others[name]["worse_by"], default=None)
    if alike:
        reason = (
            f"of {', '.join([chosen, *alike])}, which held-out voxels do not tell apart by {LIMIT:g} standard "
            "deviations, it has the fewest parameters, or is the better one of as many"
        )
    else:
        reason = f"held-out voxels find the others worse by more than {LIMIT:g} standard deviations"
    nearest = f"; the next, {next_one}, is worse by {others[next_one]['worse_by']:.1f}" if others else ""
    return f"{chosen} is chosen: {reason}{nearest}."


def _scatters(name: str, one: dict) -> bool:
    return name == "background" or one["scale"]["value"] > 0.0


def _remarks(summary: dict) -> list[Remark]:
    found, chosen = [], summary["models"][summary["chosen"]]
    about = summary["dataset"]
    if summary["chosen"] == "background":
        found.append(
            distrust(
                "no model is better than an isotropic background",
                "No model explains held-out voxels better than an isotropic background does: the map has no "
                "anisotropic signal above its noise, or is of another crystal; look at it, or take a larger d_min.",
            )
        )
        return found
    if chosen["cc_held_out"] is not None and chosen["cc_held_out"] < POOR_CC:
        found.append(
            care(
                f"CC {chosen['cc_held_out']:.2f} of held-out voxels",
                f"The chosen model explains little: the CC of held-out voxels is {chosen['cc_held_out']:.2f}.",
                "cc_held_out",
            )
        )
    if chosen["chi2_reduced"] > MISFIT:
        found.append(_misfit_remark(chosen["chi2_reduced"], about["variance"]))
    found += _parameter_remarks(summary["chosen"], chosen)
    return found


def _misfit_remark(chi_sq: float, variance: str) -> Remark:
    """On a map that the model does not explain within its standard deviations."""
    where_from = " (here the scatter of symmetry equivalents)" if variance == "scatter of equivalents" else ""
    return care(
        f"reduced chi^2 {chi_sq:.2f}",
        f"The model does not explain the map within its standard deviations{where_from}: reduced chi^2 is {chi_sq:.2f}."
        f" The standard deviations of parameters are scaled by at least its root, {chi_sq**0.5:.2f}, but do not say "
        "how far off a wrong model is: try others, a background of more functions, or a larger d_min.",
        "chi2_reduced",
    )


def _parameter_remarks(name_of_model: str, chosen: dict) -> list[Remark]:
    """On what the data do not determine, or not one by one."""
    found = []
    if not chosen["converged"]:
        found.append(care("the fit did not converge", f"The fit of {name_of_model} did not converge within its steps."))
    unknown = [name for name, one in chosen["parameters"].items() if not one["determined"]]
    if unknown:
        some = f"{', '.join(unknown[:MOST_NAMED])}{', ...' if len(unknown) > MOST_NAMED else ''}"
        found.append(
            care(
                f"{some} {'is' if len(unknown) == 1 else 'are'} not determined",
                f"The data do not determine {some} of {name_of_model}: at a limit, or with a standard "
                "deviation as large as the value.",
            )
        )
    matrix, names = chosen["correlations"]["matrix"], chosen["correlations"]["names"]
    strong = [
        f"{names[i]} and {names[j]} {matrix[i][j]:+.2f}"
        for i in range(len(matrix))
        for j in range(i)
        if matrix[i][j] is not None and abs(matrix[i][j]) > CORRELATED
    ]
    if strong:
        found.append(note(f"Strongly correlated parameters: {', '.join(strong)}."))
    return found
