"""The log of dials.diffuse_model: its summary as text."""

from __future__ import annotations

import math

from dials_postrefine.report.common.tables import number, table

MOST_SHOWN = 12  # parameters of a model in a line
MOST_LISTED = 44  # one a line, as T, L and S of two bodies
MOST_GROUPS = 60  # of an inferred covariance
HEADERS = ("model", "variant", "parameters (esd)", "chi^2", "chi^2 held out", "CC", "CC held out", "BIC", "worse by")
N_WORDS = 3  # of these, that are no figures


def summary_text(summary: dict) -> str:
    """The table of models, their parameters, the correlations of the chosen one's, and the agreement by shell."""
    chosen = summary["models"][summary["chosen"]]
    rows = [[row[0], *row[N_WORDS:]] for row in model_rows(summary)]
    return "\n".join(
        [
            "\nModels, the best variant of each; CC of the anisotropic part; BIC: chi^2 + p ln n above the"
            "\nlowest one; worse by: standard deviations by which held-out voxels prefer the best one:",
            table(rows, [HEADERS[0], *HEADERS[N_WORDS:]]),
            *(_model_line(name, one) for name, one in summary["models"].items()),
            "",
            *(_parameter_line(name, one) for name, one in chosen["parameters"].items() if _are_listed(chosen)),
            *_group_lines(chosen),
            *_correlation_lines(chosen["correlations"]),
            "\nCC of the anisotropic part by resolution, of all models, and of the chosen one chi^2 and R:",
            _shell_table(summary),
            f"Chosen: {summary['chosen']}" + "".join(f", {k} {v}" for k, v in chosen["variant"].items()),
            summary["decision"],
        ]
    )


def _are_listed(one: dict) -> bool:
    """Whether parameters are listed: elements of an inferred covariance mean nothing one by one."""
    return len(one["parameters"]) <= MOST_LISTED and "covariance" not in one


def _group_lines(one: dict) -> list[str]:
    """How far the groups of an inferred covariance move."""
    rows = group_rows(one)
    return ["V of the groups (A^2), and of each with the next one:", table(rows, GROUP_HEADERS)] if rows else []


GROUP_HEADERS = ("group", "V", "esd", "V with the next", "esd of it")


def group_rows(one: dict) -> list[list[str]]:
    """V of each group of an inferred covariance, and with the next one, none of many."""
    found = one.get("covariance")
    if not found or len(found["groups"]) > MOST_GROUPS:
        return []
    v, esd, n = found["v"], found["esd"], len(found["groups"])
    return [
        [
            name,
            *(number(each[k][k], "{:.4f}") for each in (v, esd)),
            *(number(each[k][k + 1], "{:.4f}") if k + 1 < n else "" for each in (v, esd)),
        ]
        for k, name in enumerate(found["groups"])
    ]


def _model_line(name: str, one: dict) -> str:
    """The variant, the parameters and the scale of a model."""
    variant = " ".join(f"{key} {value}" for key, value in one["variant"].items())
    parameters = parameters_text(one["parameters"])
    scale = one["scale"]
    if name == "background":
        return "background: isotropic, no model"
    esd = "held" if scale["held"] else number(scale["esd"], "{:.3g}")
    return f"{name}{f' ({variant})' if variant else ''}: {parameters}, scale {number(scale['value'], '{:.4g}')} ({esd})"


def _parameter_line(name: str, one: dict) -> str:
    known = "" if one["determined"] else ", not determined by the data"
    pattern = f"{{:.{decimals(one['esd'])}f}}"
    return f"{name} = {number(one['value'], pattern)} +- {number(one['esd'], pattern)} {one['unit']}{known}".rstrip()


def _correlation_lines(correlations: dict) -> list[str]:
    """The correlations of all pairs of parameters and the scale."""
    names, matrix = correlations["names"], correlations["matrix"]
    if len(names) < 2:
        return []
    rows = [[name, *(number(matrix[i][j], "{:+.2f}") for j in range(i))] for i, name in enumerate(names)]
    rows = [row + [""] * (len(names) - len(row)) for row in rows[1:]]
    return ["Correlations of the parameters and the scale:", table(rows, ["", *names[:-1]], wide=True)]


def _shell_table(summary: dict) -> str:
    models, chosen = summary["models"], summary["models"][summary["chosen"]]
    others = [name for name in models if any(shell["cc"] is not None for shell in models[name]["shells"])]
    rows = []
    for k, s in enumerate(chosen["shells"]):
        edges = f"{number(s['d_max'], '{:.2f}')} - {s['d_min']:.2f}"
        each = [number(models[name]["shells"][k]["cc"], "{:.3f}") for name in others]
        rows.append([edges, str(s["n"]), *each, number(s["chi_sq"], "{:.3f}"), number(s["r"], "{:.3f}")])
    return table(
        rows,
        ["d (A)", "voxels", *others, "chi^2", "R"],
        optional=[name for name in ("uncorrelated", "background") if name in others],
    )


def model_rows(summary: dict) -> list[list[str]]:
    """The rows of the table of models."""
    return [
        [
            name,
            " ".join(one["variant"].values()),
            parameters_text(one["parameters"]),
            number(one["chi2_reduced"], "{:.4f}"),
            number(one["chi2_held_out"], "{:.4f}"),
            number(one["cc_anisotropic"], "{:.4f}"),
            number(one["cc_held_out"], "{:.4f}"),
            number(one["bic"], "{:.0f}"),
            number(one["worse_by"], "{:.1f}"),
        ]
        for name, one in summary["models"].items()
    ]


def parameters_text(parameters: dict) -> str:
    """All parameters of a model, or of many how many they are."""
    if len(parameters) > MOST_SHOWN:
        return f"{len(parameters)} elements"
    return " ".join(parameter_text(key, each) for key, each in parameters.items()) or "-"


def parameter_text(name: str, one: dict) -> str:
    """A parameter with its standard deviation."""
    pattern = f"{{:.{decimals(one['esd'])}f}}"
    return f"{name} {number(one['value'], pattern)} ({number(one['esd'], pattern)}){'' if one['determined'] else '?'}"


def decimals(esd: float | None) -> int:
    """How many digits after the point say a number with its standard deviation, of which two are told."""
    return min(6, max(0, 1 - math.floor(math.log10(esd)))) if esd is not None and esd > 0.0 else 4
