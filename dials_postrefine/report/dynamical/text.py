"""What the log of dials.dynamical says, from its summary (summary.py), and the tables that its page has, too."""

from __future__ import annotations

from dials_postrefine.report.common.explained import esd, explained_lines
from dials_postrefine.report.common.tables import number, table

MOST_CANDIDATES = 12
EXPLANATION = (
    "R1 = sum|F_obs - F_calc|/sum F_obs of reflections with I > 3 sigma. tau: how far symmetry equivalents differ "
    "beyond what the errors of their counts say, relative to their intensity, with its 95 % interval; explained = 1 - "
    "tau_after^2/tau_before^2; log spread: of ln(I1/I2), robust, over sqrt 2."
)


def text(summary: dict, wide: bool = False) -> str:
    """All of it."""
    parts = [
        data_lines(summary),
        stages_table(summary),
        "\nRefined:\n" + table(*reversed(refined_rows(summary))),
        "\nHands and settings:\n" + table(*reversed(candidate_rows(summary)), optional=("ln L",), wide=wide),
        group_tables(summary),
        explained_lines(summary),
        charge_lines(summary),
        orders_table(summary),
        "",
        *summary["findings"],
        EXPLANATION,
    ]
    return "\n".join(part for part in parts if part is not None)


def data_lines(summary: dict) -> str:
    """What was read."""
    data = summary["dataset"]
    lines = [
        f"{data['n_observations']} observations ({data['n_observed']} with I > 3 sigma) of {data['n_unique']} unique "
        f"indices on {data['n_frames']} frames, {data['d_max']:.2f} to {data['d_min']:.2f} A, wavelength "
        f"{data['wavelength']:.5f} A",
        f"Structure: {data['structure']}, {data['space_group']}; intensities: {data['column']}, variances "
        f"{data['variance']}",
    ]
    if summary["not_used"]:
        lines.append("Not used: " + ", ".join(f"{n} {reason}" for reason, n in summary["not_used"].items()))
    return "\n".join(lines)


def stages_table(summary: dict) -> str:
    """The stages of the refinement."""
    rows = [
        [
            one["name"],
            ", ".join(one["refined"]),
            str(one["n_parameters"]),
            str(one["n_iterations"]),
            number(one["r1"], "{:.4f}"),
        ]
        for one in summary["stages"]
    ]
    return "\nStages:\n" + table(rows, ["stage", "refined", "parameters", "iterations", "R1"])


def refined_rows(summary: dict) -> tuple[list[str], list[list[str]]]:
    """The numbers that are one for all, headers and rows."""
    thickness = summary["thickness"]
    rows = [
        ["thickness (A)", esd(thickness["value"], thickness["esd"], "{:.1f}")],
        ["relative spread of thickness", esd(thickness["spread"]["value"], thickness["spread"]["esd"], "{:.3f}")],
        ["overall B (A^2)", esd(summary["overall_b"]["value"], summary["overall_b"]["esd"], "{:.3f}")],
        ["absorption U'/U", esd(summary["absorption"]["value"], summary["absorption"]["esd"], "{:.4f}")],
        ["mosaicity (degrees)", esd(summary["mosaicity"]["value"], summary["mosaicity"]["esd"], "{:.4f}")],
    ]
    return ["", "value"], rows


def candidate_rows(summary: dict) -> tuple[list[str], list[list[str]]]:
    """The hands and settings that were tried."""
    rows = [
        [
            one["name"],
            number(one["r1"], "{:.4f}"),
            number(one["log_likelihood"], "{:.1f}"),
            number(one["worse_by"], "{:.1f}"),
        ]
        for one in summary["candidates"][:MOST_CANDIDATES]
    ]
    return ["crystal", "R1", "ln L", "ln L below best"], rows


def resolution_rows(summary: dict) -> tuple[list[str], list[list[str]]]:
    """R1 by resolution."""
    rows = [[f"{one['d_max']:.2f} - {one['d_min']:.2f}", *_r1(one)] for one in summary["groups"]["resolution"]]
    return ["d range (A)", "R1 kinematical", "R1 dynamical", "obs."], rows


def intensity_rows(summary: dict) -> tuple[list[str], list[list[str]]]:
    """R1 by intensity."""
    rows = [[f"{one['i']:.4g}", *_r1(one)] for one in summary["groups"]["intensity"]]
    return ["median I", "R1 kinematical", "R1 dynamical", "obs."], rows


def _r1(one: dict) -> list[str]:
    return [number(one["kinematical"], "{:.3f}"), number(one["dynamical"], "{:.3f}"), str(one["n"])]


def group_tables(summary: dict) -> str:
    """R1 by resolution, then by intensity."""
    return "\n" + "\n".join(table(*reversed(rows(summary))) for rows in (resolution_rows, intensity_rows))


def charge_rows(charge: dict) -> tuple[list[str], list[list[str]]]:
    """The two models of the charge."""
    rows = [
        [
            one["name"],
            number(one["r1"], "{:.4f}"),
            esd(one["thickness"], one["thickness_esd"], "{:.1f}"),
            number(one["overall_b"], "{:.3f}"),
            number(one["model_error"], "{:.3f}"),
        ]
        for one in charge["models"]
    ]
    return ["atoms", "R1", "thickness (A)", "overall B (A^2)", "model error e"], rows


def charge_part_rows(charge: dict, by: str) -> tuple[list[str], list[list[str]]]:
    """Where the likelihood ratio comes from, by resolution or intensity."""
    keys, pattern = (("d_max", "d_min"), "{:.2f}") if by == "resolution" else (("i_min", "i_max"), "{:.4g}")
    rows = [
        [" - ".join(number(one[key], pattern) for key in keys), number(one["log_ratio"], "{:+.1f}"), str(one["n"])]
        for one in charge[f"by_{by}"]
    ]
    return ["d range (A)" if by == "resolution" else "I", "ln of the ratio", "obs."], rows


def charge_lines(summary: dict) -> str | None:
    """Neutral atoms against ions."""
    charge = summary["charge"]
    if charge is None:
        return None
    first, second = (one["name"] for one in charge["models"])
    parts = (table(*reversed(charge_part_rows(charge, by))) for by in ("resolution", "intensity"))
    return "\n".join(
        [
            f"\nCharge; ln of the likelihood ratio {esd(charge['log_ratio'], charge['deviation'], '{:.1f}')}, positive "
            f"for {second} and negative for {first}:",
            table(*reversed(charge_rows(charge))),
            *parts,
        ]
    )


def order_rows(summary: dict) -> tuple[list[str], list[list[str]]]:
    """Where the correction enters."""
    rows = [
        [
            one["name"],
            number(one["r1"], "{:.4f}"),
            f"{number(one['tau'], '{:.3f}')} [{number(one['low'], '{:.3f}')}, {number(one['high'], '{:.3f}')}]",
            number(one["r_meas"], "{:.3f}"),
            str(one["n"]),
        ]
        for one in summary["orders"]
    ]
    return ["order", "R1", "tau [95 %]", "R_meas", "obs."], rows


def orders_table(summary: dict) -> str | None:
    """The orders of correction and scaling side by side."""
    if not summary["orders"]:
        return None
    return "\nWhere the correction enters; R1 of corrected amplitudes against |F_calc| of single scattering:\n" + table(
        *reversed(order_rows(summary))
    )
