"""
The page of dials.postrefine: what its JSON summary (summary.py) says, as sections of page.py, and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from dials_postrefine.report.common import plots
from dials_postrefine.report.common.page import Fact, Figure, Page, Section, Table, number
from dials_postrefine.report.common.plots import BLUE, GREEN, GREY, RED, Curve
from dials_postrefine.report.common.remarks import grade_of
from dials_postrefine.report.common.tables import absences_line
from dials_postrefine.report.stills.choice import HEADERS, TRIED, candidate_rows, model_words
from dials_postrefine.report.stills.lattices import show_lattices, show_parameters
from dials_postrefine.report.stills.shells import has_number, meaning_of_sigma, show_by_resolution
from dials_postrefine.report.stills.systematics import show_systematics
from dials_postrefine.report.stills.text import PARTIALITY, partiality_rows, symmetry_rows

INDEPENDENT = "independently refined half sets"


def numbers_of(identifiers: Sequence[str], wanted: Sequence[str | None]) -> list[int]:
    """The numbers of the lattices that are to be drawn besides; raises Sorry for one that there is not."""
    from dials.util import Sorry

    number_of = {identifier: k for k, identifier in enumerate(identifiers)}
    for name in wanted:
        if name is not None and name not in number_of:
            raise Sorry(
                f"lattice_plots={name}: no lattice has this identifier; dials.show lists those of the .expt files."
            )
    return [number_of[name] for name in wanted if name is not None]


def make_page(summary: dict) -> Page:
    """The page of a summary (summary.make_summary, or its JSON read back)."""
    honest = has_number(summary, "cc_half_honest")
    return Page(
        title="dials.postrefine",
        provenance=summary["provenance"],
        lead=[_verdict(summary)],
        facts=_facts(summary),
        verdict=summary["verdict"],
        command=summary["merge_command"],
        sections=[
            _dataset(summary),
            *([_model(summary["reference_model"], honest)] if summary.get("reference_model") else []),
            show_by_resolution(summary),
            _symmetry(summary),
            show_parameters(summary),
            _partiality(summary),
            _residuals(summary),
            show_systematics(summary),
            _convergence(summary),
            show_lattices(summary),
        ],
    )


def _verdict(summary: dict) -> str:
    dataset, after = summary["dataset"], summary["after"][-1]
    n, accepted = dataset["n_lattices"], dataset["n_accepted"]
    text = (
        f"{accepted} of {n} lattices were accepted and {dataset['n_merged']} of {dataset['n_observations']} "
        f"observations merged to {after['n_unique']} unique reflections between "
        f"{number(dataset['merged_d_max'], '.1f')} and {number(dataset['merged_d_min'], '.2f')} Å."
    )
    if summary["rejected"]:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in summary["rejected"].items())
        text += f" Rejected: {reasons}."
    return text


def _facts(summary: dict) -> list[Fact]:
    dataset, before, after = summary["dataset"], summary["before"][-1], summary["after"][-1]

    def change(key, pattern):
        return f"{number(before[key], pattern)} scaled only"

    grade = partial(grade_of, summary)
    facts = [Fact("lattices accepted", f"{dataset['n_accepted']}", f"of {dataset['n_lattices']}", grade("n_accepted"))]
    if has_number(summary, "cc_half_honest"):
        facts += [
            Fact("CC1/2, honest", number(after["cc_half_honest"], ".3f"), INDEPENDENT, grade("cc_half_honest")),
            Fact("CC1/2, conventional", number(after["cc_half"], ".3f"), change("cc_half", ".3f"), grade("cc_half")),
            Fact("R_split, honest", number(after["r_split_honest"], ".3f"), INDEPENDENT),
            Fact("R_split, conventional", number(after["r_split"], ".3f"), change("r_split", ".3f"), grade("r_split")),
        ]
    else:
        facts += [
            Fact("CC1/2", number(after["cc_half"], ".3f"), change("cc_half", ".3f"), grade("cc_half")),
            Fact("R_split", number(after["r_split"], ".3f"), change("r_split", ".3f"), grade("r_split")),
        ]
    if has_number(summary, "cc_reference"):
        facts.append(
            Fact(
                "CC to the reference",
                number(after["cc_reference"], ".3f"),
                change("cc_reference", ".3f"),
                grade("cc_reference"),
            )
        )
    if dataset["anomalous"]:
        if has_number(summary, "cc_anom_honest"):
            facts.append(Fact("CC_anom, honest", number(after["cc_anom_honest"], ".3f"), INDEPENDENT))
        facts += [
            Fact("CC_anom", number(after["cc_anom"], ".3f"), change("cc_anom", ".3f")),
            Fact(
                "anomalous completeness",
                number(after["anom_completeness"], ".1%"),
                change("anom_completeness", ".1%"),
            ),
            Fact("mean |DANO|/sigma", number(after["dano_over_sigma"], ".2f"), "of I(+) - I(-)"),
        ]
    return [
        *facts,
        Fact(
            "completeness", number(after["completeness"], ".1%"), change("completeness", ".1%"), grade("completeness")
        ),
        Fact(
            "multiplicity", number(after["multiplicity"], ".1f"), change("multiplicity", ".1f"), grade("multiplicity")
        ),
        Fact("mean I/sigma", number(after["i_over_sigma"], ".1f"), meaning_of_sigma(summary), grade("i_over_sigma")),
    ]


def _dataset(summary: dict) -> Section:
    dataset = summary["dataset"]
    low, high = dataset["wavelength_min"], dataset["wavelength_max"]
    spread = f" ({low:.5f} to {high:.5f})" if high - low > 1e-5 else ""
    a, b, c, *angles = dataset["unit_cell"]
    not_used = ", ".join(f"{count} {reason}" for reason, count in dataset["not_used"].items())
    rows = [
        ["space group", dataset["space_group"]],
        ["median unit cell", f"{a:.2f}, {b:.2f}, {c:.2f} Å; {', '.join(f'{x:.2f}' for x in angles)}°"],
        ["wavelength", f"{dataset['wavelength']:.5f} Å{spread}"],
        ["lattices", f"{dataset['n_lattices']}"],
        ["observations", f"{dataset['n_input']}"],
        ["usable observations", f"{dataset['n_observations']}" + (f" (not used: {not_used})" if not_used else "")],
        ["merged observations", f"{dataset['n_merged']}"],
        ["outliers", f"{dataset['n_outliers']}"],
        ["below the partiality threshold", f"{dataset['n_below_threshold']}"],
        ["of rejected lattices", f"{dataset['n_of_rejected']}"],
        ["reference", dataset["reference"] or "the mean of the data themselves"],
        [
            "model",
            f"{summary['model']}, {model_words(summary)}, "
            f"Friedel pairs {'apart' if dataset['anomalous'] else 'merged'}",
        ],
        *([["gain over scaling alone", summary["gain"]["words"]]] if summary["gain"] else []),
    ]
    tables = [Table("What was read, and how it was treated.", ("", ""), rows, n_text=2)]
    if summary["rejected"]:
        counts = [[reason, str(n)] for reason, n in summary["rejected"].items()]
        tables.append(Table("Rejected lattices by reason.", ("reason", "lattices"), counts))
    folded = []
    if summary["tried"]:
        tried = Table(TRIED, HEADERS, candidate_rows(summary), n_text=3)
        folded.append(Section("Models that were tried", tables=[tried]))
    return Section("Data set", tables=tables, folded=folded)


def _symmetry(summary: dict) -> Section:
    """What the observations say of the space group."""
    rows = symmetry_rows(summary, partial(number, pattern=".3f"), "not supported")
    text = [
        "Does the space group hold? Each operation relates reflections that were measured apart, in different half "
        "sets of lattices: their correlation, before any correction by a fit, should be that of a reflection with "
        "itself (h,k,l). An operation far below is not there.",
        absences_line(summary["symmetry"]["absences"]),
    ]
    headers = ("operation", "of the crystals as read", "CC", "pairs", "by chance", "verdict")
    return Section("Symmetry", text, tables=[Table("The operations of the space group.", headers, rows)])


def _model(model: dict, honest: bool = True) -> Section:
    """
    The atomic model that the lattices were fitted to, and how much of the result comes from it; honest: there are half
    sets that have not seen it.
    """
    shells = [
        [
            f"{number(s['d_max'], '.2f')} to {s['d_min']:.2f}",
            str(s["n"]),
            *(number(s[key], ".3f") for key in ("r", "cc_i", "cc_f", "model_error")),
        ]
        for s in model["shells"]
    ]
    caption = "The model and the scaled stills before any refinement; the last row is all shells together."
    tables = [Table(caption, ("d (Å)", "unique", "R", "CC(I)", "CC(F)", "model error"), shells)]
    text = [
        "From the second cycle on the lattices are fitted to the model and to the mean of the other lattices together, "
        "each with the weight of its error. Where the share of the data is small the merged intensities agree with "
        "the model because they were fitted to it"
        + ("; the honest half sets are refined without it." if honest else "."),
        *model["notes"],
    ]
    if model["share"]:
        rows = [
            [f"{number(s['d_max'], '.2f')} to {s['d_min']:.2f}", str(s["n"]), number(s["share"], ".2f")]
            for s in model["share"]
        ]
        caption = "Data and model as they weigh after the last cycle; the last row is all shells together."
        tables.append(Table(caption, ("d (Å)", "unique", "share of the data"), rows))
    else:
        text[0] = "The lattices were fitted to the model alone: one cycle, or too few merged reflections to weigh it."
    return Section("Atomic model", text, tables=tables)


def _partiality(summary: dict) -> Section:
    after = (
        "Each point stands for as many observations of accepted lattices, by their distance r_h from the Ewald sphere "
        "in units of the radius r_s. Good: observed on predicted, within the bars of one esd. Observed high far out "
        "and low in the middle: the profile is too narrow; lopsided: beam, wavelength or cell are off."
    )
    before = (
        "The same observations before: orientation and cell as indexed, the radius from the distances of the spots, "
        "one scale a lattice. Where postrefinement helps, observed is further from predicted here."
    )
    figures = [
        Figure(_partiality_plot(summary, "bins_before", "before"), before),
        Figure(_partiality_plot(summary, "bins", "after"), after),
    ]
    compared = "the reference" if summary["dataset"]["reference"] else "the mean of the other observations of its index"
    text = [
        f"Observed is the intensity over scale, fall-off and {compared}; predicted is what the model says of the same.",
        f"The model: {model_words(summary)}.",
    ]
    rows = partiality_rows(summary)
    caption = "Partiality by r_h/r_s before and after, of the same observations."
    return Section("Partiality", text, figures, [Table(caption, PARTIALITY, rows)] if rows else [])


def _partiality_plot(summary: dict, key: str, when: str) -> str:
    data = summary["partiality"]
    bins = data[key]
    ratio = [one["ratio"] for one in bins]
    curves = [
        Curve(f"profile {data['profile']}", data["curve_ratio"], data["curve_p"], GREY, "-"),
        Curve("predicted", ratio, [one["predicted"] for one in bins], GREY, "s", hollow=True),
        Curve("observed", ratio, [one["observed"] for one in bins], BLUE, "o", [one["observed_esd"] for one in bins]),
    ]
    highest = max([1.0, *(one["observed"] or 0.0 for one in [*data["bins"], *data["bins_before"]])])
    return plots.lines(
        f"partiality-{when}",
        f"Observed and predicted partiality by distance from the Ewald sphere, {when} postrefinement",
        curves if bins else [],
        "r_h / r_s",
        f"partiality p, {when}",
        "Too few observations have a reference intensity to compare with: none of the bins can be filled.",
        ylim=(-0.05, 1.1 * highest),
    )


def _residuals(summary: dict) -> Section:
    data, model = summary["residuals"], summary["error_model"]
    curves = []
    for key, name, colour, style in (
        ("by_intensity", "intensity", BLUE, "o-"),
        ("by_resolution", "resolution", RED, "^--"),
        ("by_partiality", "partiality", GREEN, "s:"),
    ):
        groups = data[key]
        x, y = list(range(1, len(groups) + 1)), [one["width"] for one in groups]
        curves.append(Curve(name, x, y, colour, style, [one["width_esd"] for one in groups]))
    widths = [curve.y for curve in curves if curve.y]
    figures = [
        Figure(
            plots.residual_histogram("residuals", "Histogram of the normalised residuals", data),
            "Difference between an observation and the mean of the others of its index, over its expected standard "
            f"deviation; outliers included. Good: on the normal curve to about three. {data['below']} are below and "
            f"{data['above']} above the axis.",
        ),
        Figure(
            plots.lines(
                "widths",
                "Width of the normalised residuals by tenths of intensity, resolution and partiality",
                curves,
                "tenth: weak, low resolution, partial → strong, high, full",
                "width of the residuals",
                "Too few observations have another one of their index.",
                ylim=(0.0, 1.15 * max([1.6, *(max(y) for y in widths)])),
            ),
            "Their width, 1.48 times the median of |z|, in tenths of equal numbers. Good: about one everywhere. Above "
            "one the standard deviations are too small there, below one too large.",
        ),
    ]
    text = ["There is no error model: the variances are those of the counts."]
    if model is not None:
        text = [
            "The expected variance is a² (var + (b I)² + c² t I²), var from the counts and t the variance of ln(G p): "
            f"a = {model['a']:.3f}, b = {model['b']:.3f}, c = {model['c']:.3f}, "
            + (f"from {model['n']} residuals." if model["n"] else "assumed, as too few indices were observed twice.")
        ]
    overall = number(data["width"], ".2f")
    text.append(
        f"{data['n']} residuals of width {overall}; {data['n_alone']} observations are the only ones of their index."
    )
    return Section("Residuals", text, figures)


def _convergence(summary: dict) -> Section:
    cycles = summary["cycles"]
    limit = summary["dataset"]["convergence"]
    x = list(range(1, len(cycles) + 1))
    why = "The reference is external: it does not change from cycle to cycle, and there is nothing to converge."
    if summary.get("reference_model"):
        why = "The lattices were fitted to the model and the data together, in a fixed number of cycles."
    figures = [
        Figure(
            plots.convergence("convergence", "Change of the merged intensities by cycle", cycles, limit, why),
            "Sum of the changes of the merged intensities over their sum. Good: it falls below the limit of "
            f"{limit:g}. Still high at the end: the lattices have too few reflections in common for a reference of "
            "their own.",
        ),
        Figure(
            plots.lines(
                "cycle-cc",
                "Mean correlation of a lattice by cycle",
                [Curve("mean CC of a lattice", x, [one["correlation"] for one in cycles])],
                "cycle",
                "mean CC of a lattice",
                "No accepted lattice has enough reflections in common with the reference for a correlation.",
                xticks=x if len(x) <= 10 else x[::5],
            ),
            "Mean over the accepted lattices of the correlation between corrected intensities and reference. It should "
            "rise and then stay.",
        ),
    ]
    rows = [
        [
            str(i),
            str(one["n_accepted"]),
            number(one["correlation"], ".3f"),
            number(one["change"], ".4f"),
            number(one["change_esd"], ".3f"),
            number(one["agreement"], ".3f"),
            "yes" if one["damped"] else "no",
        ]
        for i, one in zip(x, cycles)
    ]
    headers = ("cycle", "accepted", "mean CC of a lattice", "change of the merged I", "in esds", "unseen CC", "damped")
    text = [
        summary["course"]["words"],
        "In esds: the mean of the changes, each over the standard deviation of the merged intensity. Unseen CC: the "
        "honest CC1/2 of the half sets after this cycle, or the mean CC_free of the lattices where reflections are "
        "held out.",
    ]
    return Section("Convergence", text, figures, [Table("The cycles.", headers, rows)])
