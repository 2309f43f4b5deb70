"""The log of dials.diffuse_model: its summary as text."""

from __future__ import annotations

from dials_postrefine.report.common.tables import number, table

MOST_SHOWN = 12  # parameters of a model
HEADERS = ("model", "variant", "parameters (esd)", "chi^2", "chi^2 held out", "CC", "CC held out", "BIC", "worse by")


def summary_text(summary: dict) -> str:
    """The table of models, the chosen one, and its agreement by shell."""
    chosen = summary["models"][summary["chosen"]]
    parts = [
        "\nModels, the best variant of each; CC of the anisotropic part; BIC: chi^2 + p ln n above the lowest one:"
    ]
    parts.append(table(model_rows(summary), HEADERS, optional=("variant", "chi^2 held out", "worse by", "CC")))
    few = len(chosen["parameters"]) <= MOST_SHOWN
    for name, one in chosen["parameters"].items() if few else ():
        known = "" if one["determined"] else ", not determined by the data"
        parts.append(f"{name} = {one['value']:.4f} +- {number(one['esd'], '{:.4f}')} {one['unit']}{known}".rstrip())
    shells = [
        [
            f"{number(s['d_max'], '{:.2f}')} - {s['d_min']:.2f}",
            str(s["n"]),
            number(s["cc"], "{:.3f}"),
            number(s["chi_sq"], "{:.3f}"),
            number(s["r"], "{:.3f}"),
        ]
        for s in chosen["shells"]
    ]
    parts.append(f"\n{summary['chosen']} by resolution:")
    parts.append(table(shells, ["d (A)", "voxels", "CC", "chi^2", "R"]))
    parts.append(f"Chosen: {summary['chosen']}" + "".join(f", {k} {v}" for k, v in chosen["variant"].items()))
    parts.append(summary["decision"])
    return "\n".join(parts)


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
    value = number(one["value"], "{:.3f}")
    return f"{name} {value} ({number(one['esd'], '{:.3f}')}){'' if one['determined'] else '?'}"
