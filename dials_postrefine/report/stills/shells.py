"""
The section of the page that shows a data set by resolution: figures and tables of its shells.
"""

from __future__ import annotations

from dials_postrefine.report.common import plots
from dials_postrefine.report.common.page import Figure, Section, Table, number
from dials_postrefine.report.common.plots import BLUE, GREY, RED, Curve

# numbers of the differences of Friedel pairs, and how they are written
ANOMALOUS = (("anom_completeness", ".1%"), ("dano_over_sigma", ".2f"), ("cc_anom", ".3f"))
FEW_IN_BOTH = "No shell has three indices that both half sets observed: nothing to correlate."


def show_by_resolution(summary: dict) -> Section:
    """The section."""
    honest = has_number(summary, "cc_half_honest")
    figures = _half_set_figures(summary, honest)
    if has_number(summary, "cc_reference"):
        figures.append(
            _shell_figure(
                summary,
                "cc_reference",
                "Correlation with the reference by resolution",
                "CC to the reference",
                "Correlation of the merged intensities with the reference that the lattices were fitted to. It can "
                "only say that something is wrong: a low value is bad, a high one is not yet good.",
                ylim=(None, 1.03),
            )
        )
    figures += _merging_figures(summary)
    if summary["dataset"]["anomalous"]:
        figures += _anomalous_figures(summary)
    text = []
    if not honest:
        external = summary["dataset"]["reference"] is not None
        why = (
            "the lattices were fitted to an external reference, so that the half sets never met."
            if external
            else "cross_validation is not half_sets, or a half has no lattice that is accepted."
        )
        text = [f"There are no honest CC1/2 and R_split beside the conventional ones: {why}"]
    folded = [Section("Numbers by shell", tables=[_shells(summary, "before"), _shells(summary, "after")])]
    return Section("By resolution", text, figures, folded=folded)


def _half_set_figures(summary: dict, honest: bool) -> list[Figure]:
    """CC1/2 and R_split, with those of independently refined half sets where there are any."""
    return [
        _shell_figure(
            summary,
            "cc_half",
            "CC1/2 by resolution",
            "CC1/2",
            "Correlation of two half sets of lattices, one where they agree. Data are useful to where it falls below "
            "about 0.3. Conventional half sets were fitted to one mean, and agree too well; honest ones were refined "
            "independently.",
            honest_key="cc_half_honest" if honest else None,
            ylim=(-0.1, 1.03),
        ),
        _shell_figure(
            summary,
            "r_split",
            "R_split by resolution",
            "R_split",
            "Relative difference of the two half sets, 0 where they agree. It rises to high resolution; postrefined "
            "should lie below scaled only.",
            honest_key="r_split_honest" if honest else None,
            ylim=(0.0, None),
        ),
    ]


def _merging_figures(summary: dict) -> list[Figure]:
    """Completeness, multiplicity and mean I/sigma."""
    return [
        _shell_figure(
            summary,
            "completeness",
            "Completeness by resolution",
            "completeness",
            "Fraction of the possible unique reflections that were merged. It should be near one to the resolution "
            "limit.",
            ylim=(0.0, 1.05),
        ),
        _shell_figure(
            summary,
            "multiplicity",
            "Multiplicity by resolution",
            "multiplicity",
            "Observations per unique reflection. Partiality and outliers average out with many; below about four they "
            "do not.",
            ylim=(0.0, None),
        ),
        _shell_figure(
            summary,
            "i_over_sigma",
            "Mean I/sigma by resolution",
            "mean I/sigma",
            f"Merged intensity over its standard deviation, {meaning_of_sigma(summary)}."
            + (
                " There is none to compare with before: no error model is fitted then."
                if summary["error_model"]
                else ""
            ),
            ylim=(0.0, None),
        ),
    ]


def _anomalous_figures(summary: dict) -> list[Figure]:
    """CC_anom and |DANO|/sigma."""
    return [
        _shell_figure(
            summary,
            "cc_anom",
            "CC_anom by resolution",
            "CC_anom",
            "Correlation of the differences I(+) - I(-) of the two half sets, zero where there is no signal. They can "
            "be used to where it falls below about 0.3.",
            honest_key="cc_anom_honest" if has_number(summary, "cc_anom_honest") else None,
            ylim=(-0.2, 1.03),
        ),
        _shell_figure(
            summary,
            "dano_over_sigma",
            "Anomalous differences over their standard deviations by resolution",
            "mean |DANO|/sigma",
            f"Mean of |I(+) - I(-)| over its standard deviation, {meaning_of_sigma(summary)}: 0.80 of noise alone.",
            ylim=(0.0, None),
        ),
    ]


def _shell_figure(
    summary: dict, key: str, title: str, y_label: str, caption: str, honest_key: str | None = None, **limits
) -> Figure:
    """
    A number of the shells before and after, and with honest_key that of independently refined half sets; limits as
    plots.by_resolution takes them.
    """
    before, after = summary["before"][:-1], summary["after"][:-1]
    why = FEW_IN_BOTH if key in ("cc_half", "r_split", "cc_anom") else "There are too few reflections."
    curves = []
    if any(shell[key] is not None for shell in before):
        curves.append(Curve("scaled only", [], [shell[key] for shell in before], GREY, "s--", hollow=True))
    curves.append(Curve("conventional" if honest_key else "postrefined", [], [shell[key] for shell in after], BLUE))
    if honest_key:
        curves.append(Curve("honest", [], [shell[honest_key] for shell in after], RED, "^-"))
    svg = plots.by_resolution(key.replace("_", "-"), title, after, curves, y_label, why, **limits)
    return Figure(svg, caption)


def _shells(summary: dict, when: str) -> Table:
    honest = when == "after" and has_number(summary, "cc_half_honest")
    reference = has_number(summary, "cc_reference")
    headers = ["d (Å)", "observations", "unique", "completeness", "multiplicity", "I/sigma", "CC1/2", "R_split"]
    headers += ["CC to the reference"] * reference + ["honest CC1/2", "honest R_split"] * honest
    anomalous = summary["dataset"]["anomalous"]
    headers += ["pairs", "anomalous completeness", "|DANO|/sigma", "CC_anom"] * anomalous
    headers += ["honest CC_anom"] * (honest and anomalous)
    rows = [
        [
            f"{number(s['d_max'], '.2f')} to {s['d_min']:.2f}",
            str(s["n_observations"]),
            str(s["n_unique"]),
            number(s["completeness"], ".1%"),
            number(s["multiplicity"], ".2f"),
            number(s["i_over_sigma"], ".1f"),
            number(s["cc_half"], ".3f"),
            number(s["r_split"], ".3f"),
            *[number(s["cc_reference"], ".3f")] * reference,
            *[number(s["cc_half_honest"], ".3f"), number(s["r_split_honest"], ".3f")] * honest,
            *([str(s["n_pairs"]), *(number(s[key], pattern) for key, pattern in ANOMALOUS)] if anomalous else []),
            *[number(s["cc_anom_honest"], ".3f")] * (honest and anomalous),
        ]
        for s in summary[when]
    ]
    caption = {"before": "Scaled only", "after": "Postrefined"}[when] + "; the last row is all shells together."
    return Table(caption, headers, rows)


def has_number(summary: dict, key: str) -> bool:
    """Whether any shell has this number."""
    return any(shell[key] is not None for when in ("before", "after") for shell in summary[when])


def meaning_of_sigma(summary: dict) -> str:
    """Where the standard deviations come from."""
    return "sigma by the error model" if summary["error_model"] else "sigma of the counts alone"
