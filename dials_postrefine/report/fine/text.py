"""What the log of dials.fine_refine says, from its summary (summary.py), and the tables that its page has, too."""

from __future__ import annotations

from dials_postrefine.report.common.tables import number, table

PARAMETER_HEADERS = ["parameter", "value", "esd", "more beams", "unit"]
DISK_HEADERS = ["disk", "pixels", "scale", "background", "correlation", "chi^2"]
FACTOR_HEADERS = ["", "s (1/A)", "U (1/A^2)", "atoms", "F_x", "f_x"]


def text(summary: dict) -> str:
    """The log."""
    beams = summary["beams"]
    lines = [
        f"{summary['gof']}: chi^2 {summary['chi2']:.5g} of {summary['n']} pixels and {summary['n_parameters']} "
        f"parameters, reduced {summary['chi2_reduced']:.4g}; correlation of the disks {summary['correlation']:.4f}",
        f"{summary['method']}, {summary['n_evaluations']} evaluations of the model, {beams['n']} beams",
        "",
        table(parameter_rows(summary), PARAMETER_HEADERS),
        f"more beams: what {beams['n_longer']} beams in place of {beams['n']} would add to the value.",
    ]
    if summary["factors"]:
        lines += ["", table(factor_rows(summary), FACTOR_HEADERS), "Structure factors: F_x by Mott and Bethe."]
    lines += ["", table(disk_rows(summary), DISK_HEADERS)]
    return "\n".join(lines)


def parameter_rows(summary: dict) -> list[list[str]]:
    """A row a parameter."""
    return [
        [
            name,
            number(one["value"], "{:.7g}"),
            number(one["esd"], "{:.2g}") if one["refined"] else "fixed",
            number(one["cut"], "{:+.2g}"),
            one["unit"],
        ]
        for name, one in summary["parameters"].items()
    ]


def factor_rows(summary: dict) -> list[list[str]]:
    """A row a group of reflections."""

    def pair(one: dict, name: str, pattern: str) -> str:
        if one[name] is None:
            return "-"
        return f"{number(one[name], pattern)} +- {number(one[f'{name}_esd'], '{:.2g}')}"

    return [
        [
            one["label"],
            number(one["s"], "{:.4f}"),
            pair(one, "u", "{:.6f}"),
            number(one["u_atoms"], "{:.6f}"),
            pair(one, "f_xray", "{:.4f}"),
            pair(one, "f_x", "{:.4f}"),
        ]
        for one in summary["factors"]
    ]


def disk_rows(summary: dict) -> list[list[str]]:
    """A row a disk."""
    return [
        [
            one["hkl"],
            str(one["n"]),
            number(one["scale"], "{:.5g}"),
            number(one["background"], "{:.5g}"),
            number(one["correlation"], "{:.4f}"),
            number(one["chi2"], "{:.4g}"),
        ]
        for one in summary["disks"]
    ]
