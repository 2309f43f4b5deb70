"""
What is reported of a reference: the tables of the log of dials.reference_intensities, and the same as plain numbers;
dials.postrefine has them, too, where its reference is an atomic model, and how much of the result comes from that.

Lengths in Angstrom, B in A^2, k_sol in electrons/A^3; a number that does not exist is null.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tabulate import tabulate

from dials_postrefine.report.summary import finite
from dials_postrefine.scattering.form_factors import FormFactors
from dials_postrefine.scattering.prior import Combined
from dials_postrefine.scattering.reference import Way
from dials_postrefine.scattering.scaling import ScaleFit, shell_of

TENSOR = ("11", "22", "33", "12", "13", "23")


def summarise(path: str, reference: Any) -> dict:
    """All numbers of the run, fit for JSON; reference: a files.reference_model.Reference."""
    indices, result = reference.indices, reference.result
    known = np.isfinite(result.intensity)
    return finite(
        {
            "reference": path,
            "space_group": indices.space_group_info().type().lookup_symbol(),
            "unit_cell": list(indices.unit_cell().parameters()),
            "d_min": indices.d_min(),
            "n_reflections": int(np.count_nonzero(known)),
            "n_data": reference.n_data,
            "notes": list(reference.notes),
            "form_factors": None if reference.factors is None else describe_factors(reference.factors),
            "ways": [describe_way(way) for way in result.ways] if reference.n_data else [],
            "chosen": describe_way(result.way),
            "fit": None if result.way.fit is None else describe_fit(result.way.fit),
            "shells": [vars(shell) for shell in result.shells],
        }
    )


def describe_factors(factors: FormFactors) -> dict:
    """Radiation and tables."""
    return {
        "radiation": factors.radiation,
        "table": factors.table,
        "mott_bethe": sorted(factors.nuclear_charge),
        "dispersion": {name: list(values) for name, values in sorted(factors.dispersion.items())},
    }


def describe_way(way: Way) -> dict:
    """One way to index, with its agreement."""
    return {"operation": way.name, "hand": way.hand, "r": way.r, "cc": way.cc}


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
    factors = summary["form_factors"]
    if factors:
        parts.append(f"Form factors of {factors['radiation']}s: {factors['table']}".replace("xrays", "X-rays"))
        for name, (fp, fdp) in factors["dispersion"].items():
            parts.append(f"  {name:4s} f' = {fp:7.3f}  f'' = {fdp:6.3f}")
    parts += [f"Note: {note}" for note in summary["notes"]]
    if not summary["n_data"]:
        parts.append("No data: intensities are on the scale of the reference.")
        return "\n".join(parts)
    if len(summary["ways"]) > 1:
        rows = [
            [way["operation"], _hand(way["hand"]), _number(way["r"], "{:.4f}"), _number(way["cc"], "{:.4f}")]
            for way in summary["ways"]
        ]
        headers = ["operation", "hand", "R", "CC(I)"]
        parts += ["", "Ways to index the data and hands of the reference:", _table(rows, headers)]
    chosen = summary["chosen"]
    parts.append(f"Chosen: {chosen['operation']}, {_hand(chosen['hand'])}")
    if chosen["operation"] not in ("h,k,l", "x,y,z"):
        parts.append(f"To reindex the data so: dials.reindex change_of_basis_op={chosen['operation']}")
    return "\n".join([*parts, "", fit_text(summary["fit"]), "", shells_text(summary["shells"])])


def describe_share(combined: Combined | None, d_star_sq: np.ndarray) -> list[dict]:
    """
    The share of the data in what the lattices were fitted to last, by shell and last of all; none where it was the
    model alone.
    """
    if combined is None:
        return []
    edges, both = combined.fit.edges, combined.both
    shell = shell_of(d_star_sq, edges)
    inside = [(both & (shell == k), low, high) for k, (low, high) in enumerate(zip(edges[:-1], edges[1:]))]
    return finite(
        [
            {
                "d_max": low**-0.5 if low > 0.0 else None,
                "d_min": high**-0.5,
                "n": int(np.count_nonzero(some)),
                "share": float(np.mean(combined.share[some])) if some.any() else None,
            }
            for some, low, high in [*inside, (both, edges[0], edges[-1])]
        ]
    )


def share_text(shells: Sequence[dict]) -> str:
    """The same for the log."""
    if not shells:
        return "The lattices were fitted to the model alone: too few of their reflections are merged to weigh it."
    rows = [
        [f"{_number(s['d_max'], '{:.2f}')} - {s['d_min']:.2f}", str(s["n"]), _number(s["share"], "{:.2f}")]
        for s in shells
    ]
    rows[-1][0] = "all"
    headers = ["d (A)", "unique", "share of the data"]
    return f"What the lattices were fitted to, the rest being the model's:\n{_table(rows, headers)}"


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
    text = f"Fit to {fit['n']} reflections, {fit['n_outliers']} of them outliers:\n{_table(rows, ['', 'value (esd)'])}"
    if fit["at_bound"]:
        text += f"\n{', '.join(fit['at_bound'])} ended at a bound: the data do not tell."
    return text


def shells_text(shells: Sequence[dict]) -> str:
    """Agreement by resolution, the last row being all."""
    rows = [
        [
            f"{_number(shell['d_max'], '{:.2f}')} - {shell['d_min']:.2f}",
            str(shell["n"]),
            *(_number(shell[key], "{:.3f}") for key in ("r", "r_strong", "cc_i", "cc_f")),
            _number(shell["i_over_sigma"], "{:.1f}"),
            _number(shell["model_error"], "{:.3f}"),
        ]
        for shell in shells
    ]
    rows[-1][0] = "all"
    headers = ["d (A)", "n", "R", "R, I > 2 sigma", "CC(I)", "CC(F)", "I/sigma", "model error"]
    return f"Agreement by resolution:\n{_table(rows, headers)}"


def _table(rows, headers) -> str:
    return tabulate(rows, headers, tablefmt="psql", disable_numparse=True)


def _hand(hand: int) -> str:
    return "as given" if hand > 0 else "inverted"


def _number(value: float | None, pattern: str) -> str:
    return "-" if value is None else pattern.format(value)


def _pair(entry: dict, pattern: str) -> str:
    value = _number(entry["value"], pattern)
    return value if entry["esd"] is None else f"{value} ({_number(entry['esd'], pattern)})"
