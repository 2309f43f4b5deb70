"""
What is reported of a reference: the tables of the log of dials.reference_intensities, and the same as plain numbers;
dials.postrefine has them, too, where its reference is an atomic model, and how much of the result comes from that.

Lengths in Angstrom, B in A^2, k_sol in electrons/A^3; a number that does not exist is null.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from dials_postrefine.numerics.shells import shell_of
from dials_postrefine.report.common.remarks import Remark, absences_remarks, care, distrust, not_used_remarks
from dials_postrefine.report.common.summary import finite
from dials_postrefine.report.common.tables import absences_line, number, table
from dials_postrefine.scattering.form_factors import FormFactors
from dials_postrefine.scattering.prior import Combined
from dials_postrefine.scattering.reference import Indexing
from dials_postrefine.scattering.scaling import ScaleFit

CC_LITTLE = 0.3  # of intensities
TENSOR = ("11", "22", "33", "12", "13", "23")


def summarise(path: str, reference: Any) -> dict:
    """All numbers of the run, fit for JSON; reference: a files.reference_model.Reference."""
    indices, result = reference.indices, reference.result
    known = np.isfinite(result.intensity)
    group = indices.space_group_info().type().lookup_symbol()
    counts = {
        name: None if tally is None else describe_tally(tally)
        for name, tally in (("observations", reference.tally_of_data), ("reference_observations", reference.tally))
    }
    return finite(
        {
            **counts,
            "reference": path,
            "space_group": group,
            "unit_cell": list(indices.unit_cell().parameters()),
            "d_min": reference.known_set().d_min(),
            "wavelength": reference.wavelength,
            "radiation": reference.radiation,
            "n_reflections": int(np.count_nonzero(known)),
            "n_data": reference.n_data,
            "n_unmatched": reference.n_unique - reference.n_data,
            "notes": list(reference.notes),
            "form_factors": None if reference.factors is None else describe_factors(reference.factors),
            "ways": [describe_indexing(indexing) for indexing in result.indexings] if reference.n_data else [],
            "chosen": describe_indexing(result.indexing),
            "fit": None if result.indexing.fit is None else describe_fit(result.indexing.fit),
            "shells": [vars(shell) for shell in result.shells],
        }
    )


def describe_tally(tally: Any) -> dict:
    """What became of the observations of a file (files.reflection_files.Tally) as plain numbers."""
    return finite(asdict(tally))


def tally_remarks(tally: dict, group: str) -> list[Remark]:
    """A remark for each reason that leaves out many observations, and one for absences that are not."""
    return [*absences_remarks(tally["absences"], group), *not_used_remarks(tally["not_used"], tally["n_input"])]


def remarks(summary: dict) -> list[Remark | str]:
    """The remarks of dials.reference_intensities on its summary."""
    found: list[Remark | str] = list(summary["notes"])
    for name in ("observations", "reference_observations"):
        if summary[name]:
            found += tally_remarks(summary[name], summary["space_group"])
    fit, chosen = summary["fit"], summary["chosen"]
    if fit and fit["at_bound"]:
        names = ", ".join(fit["at_bound"])
        found.append(care(f"{names} at a bound", f"{names} ended at a bound: the data do not tell it."))
    if summary["n_data"] and chosen["cc"] is not None and chosen["cc"] < CC_LITTLE:
        found.append(
            distrust(
                f"reference and data correlate by {chosen['cc']:.2f}",
                f"The best way to index gives a correlation of {chosen['cc']:.2f} between reference and data: the "
                "model is of another structure, or the data are not what they seem.",
            )
        )
    return found


def tally_lines(tally: dict, what: str) -> list[str]:
    """The same numbers for the log; what: whose observations they are."""
    lines = [f"{tally['n_merged']} of {tally['n_input']} observations of the {what} were merged"]
    if tally["not_used"]:
        lines.append("Not used: " + ", ".join(f"{n} {reason}" for reason, n in tally["not_used"].items()))
    if tally["absences"]["n"]:
        lines.append(absences_line(tally["absences"]))
    return lines


def describe_factors(factors: FormFactors) -> dict:
    """Radiation and tables."""
    return {
        "radiation": factors.radiation,
        "table": factors.table,
        "mott_bethe": sorted(factors.nuclear_charge),
        "dispersion": {name: list(values) for name, values in sorted(factors.dispersion.items())},
    }


def describe_indexing(indexing: Indexing) -> dict:
    """How data may be indexed, with the agreement."""
    return {"operation": indexing.name, "hand": indexing.hand, "r": indexing.r, "cc": indexing.cc}


def describe_fit(fit: ScaleFit) -> dict:
    """The fitted parameters with their esds."""
    names = "k_ov", "k_sol", "b_sol"
    values = {name: {"value": getattr(fit, name), "esd": getattr(fit, f"{name}_esd")} for name in names}
    tensor = {"value": [float(b) for b in fit.b_cart], "esd": [float(b) for b in fit.b_cart_esd]}
    return {
        **values,
        "b_cart": tensor,
        "b_iso": float(np.mean(fit.b_cart[:3])),
        "n": fit.n,
        "n_outliers": fit.n_outliers,
        "at_bound": fit.at_bound,
    }


def text(summary: dict) -> str:
    """The log's account of a summary."""
    cell = " ".join(f"{value:.2f}" for value in summary["unit_cell"])
    what = f"{summary['n_reflections']} reference intensities to {summary['d_min']:.2f} A"
    parts = [f"{what} in {summary['space_group']} {cell}"]
    factors, wavelength = summary["form_factors"], summary["wavelength"]
    parts.append(f"Wavelength: {'not known' if wavelength is None else f'{wavelength:.5f} A'}")
    if factors:
        parts.append(f"Form factors of {factors['radiation']}s: {factors['table']}".replace("xrays", "X-rays"))
        for name, (fp, fdp) in factors["dispersion"].items():
            parts.append(f"  {name:4s} f' = {fp:7.3f}  f'' = {fdp:6.3f}")
    for key, what in (("reference_observations", "reference"), ("observations", "data")):
        if summary[key]:
            parts += tally_lines(summary[key], what)
    if summary["n_unmatched"]:
        parts.append(f"{summary['n_unmatched']} unique reflections of the data have no reference and were not used")
    if not summary["n_data"]:
        parts.append("No data: intensities are on the scale of the reference.")
        return "\n".join(parts)
    if len(summary["ways"]) > 1:
        rows = [
            [way["operation"], _hand(way["hand"]), number(way["r"], "{:.4f}"), number(way["cc"], "{:.4f}")]
            for way in summary["ways"]
        ]
        headers = ["operation", "hand", "R", "CC(I)"]
        parts += ["", "Ways to index the data and hands of the reference:", table(rows, headers)]
    chosen = summary["chosen"]
    parts.append(f"Chosen: {chosen['operation']}, {_hand(chosen['hand'])}")
    if chosen["operation"] not in ("h,k,l", "x,y,z"):
        parts.append(f"To reindex the data so: dials.reindex change_of_basis_op={chosen['operation']}")
    return "\n".join([*parts, "", fit_text(summary["fit"]), "", shells_text(summary["shells"])])


def describe_share(combined: Combined | None, d_star_sq: np.ndarray) -> list[dict]:
    """
    The share of the data beside the model, by shell and last of all; none where the lattices were fitted to the model
    alone.
    """
    if combined is None:
        return []
    edges, both = combined.fit.edges, combined.both
    n = np.bincount(shell_of(d_star_sq, edges)[both], minlength=len(edges) - 1)
    shells = [*zip(edges[:-1], edges[1:], n, combined.share_by_shell(d_star_sq))]
    shells.append((edges[0], edges[-1], n.sum(), combined.share[both].mean()))
    return finite(
        [
            {"d_max": low**-0.5 if low > 0.0 else None, "d_min": high**-0.5, "n": count, "share": share}
            for low, high, count, share in shells
        ]
    )


def share_text(shells: Sequence[dict]) -> str:
    """The same for the log."""
    if not shells:
        return "The lattices were fitted to the model alone: one cycle, or too few merged reflections to weigh it."
    rows = [
        [f"{number(s['d_max'], '{:.2f}')} - {s['d_min']:.2f}", str(s["n"]), number(s["share"], "{:.2f}")]
        for s in shells
    ]
    rows[-1][0] = "all"
    headers = ["d (A)", "unique", "share of the data"]
    title = "Data and model together, as they weigh after the last cycle, the rest being the model's:"
    return f"{title}\n{table(rows, headers)}"


def fit_text(fit: dict) -> str:
    """The fitted parameters as a table."""
    rows = [["k_ov", _pair(fit["k_ov"], "{:.5g}")]]
    for name, unit in (("k_sol", "electrons/A^3"), ("b_sol", "A^2")):
        if fit[name]["value"] is not None:
            rows.append([f"{name} ({unit})", _pair(fit[name], "{:.3f}" if name == "k_sol" else "{:.1f}")])
    tensor = fit["b_cart"]
    rows += [
        [f"B_{index} (A^2)", _pair({"value": value, "esd": esd}, "{:.2f}")]
        for index, value, esd in zip(TENSOR, tensor["value"], tensor["esd"])
    ]
    text = f"Fit to {fit['n']} reflections, {fit['n_outliers']} of them outliers:\n{table(rows, ['', 'value (esd)'])}"
    if fit["at_bound"]:
        text += f"\n{', '.join(fit['at_bound'])} ended at a bound: the data do not tell."
    return text


def shells_text(shells: Sequence[dict]) -> str:
    """Agreement by resolution, the last row being all."""
    rows = [
        [
            f"{number(shell['d_max'], '{:.2f}')} - {shell['d_min']:.2f}",
            str(shell["n"]),
            *(number(shell[key], "{:.3f}") for key in ("r", "r_strong", "cc_i", "cc_f")),
            number(shell["i_over_sigma"], "{:.1f}"),
            number(shell["model_error"], "{:.3f}"),
        ]
        for shell in shells
    ]
    rows[-1][0] = "all"
    headers = ["d (A)", "n", "R", "R, I > 2 sigma", "CC(I)", "CC(F)", "I/sigma", "model error"]
    return f"Agreement by resolution:\n{table(rows, headers)}"


def _hand(hand: int) -> str:
    return "as given" if hand > 0 else "inverted"


def _pair(entry: dict, pattern: str) -> str:
    value = number(entry["value"], pattern)
    return value if entry["esd"] is None else f"{value} ({number(entry['esd'], pattern)})"
