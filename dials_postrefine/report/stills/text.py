"""The tables of the log."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from dials_postrefine.report.common.tables import absences_line, number, positive_zero, table
from dials_postrefine.report.stills.choice import HEADERS, TRIED, candidate_rows, describe_choice, model_words
from dials_postrefine.report.stills.course import describe_course
from dials_postrefine.report.stills.summary import PARAMETERS, count_rejected, label, usable_and_not
from dials_postrefine.report.stills.systematics import systematics_table
from dials_postrefine.stills.convergence import Cycle
from dials_postrefine.stills.dataset import Stills
from dials_postrefine.stills.merging import MergedShell
from dials_postrefine.stills.outcome import PostrefinedStills
from dials_postrefine.stills.refinement import Refinement
from dials_postrefine.stills.reindexing import Ambiguity

PARTIALITY = ("r_h/r_s", "before: n", "observed", "predicted", "after: n", "observed", "predicted")


def course(
    identifiers: Sequence[str], refinement: Refinement, order: Sequence[int], convergence: float, wide: bool = False
) -> str:
    """
    How the run went: what was tried where there was a choice, the cycles and how they ended by the limit of
    convergence, and the lattices that were rejected, in this order of their numbers.  wide: all columns, also where
    they don't fit the log.
    """
    result, described = refinement.result, describe_choice(refinement)
    parts = [f"Model: {model_words(described)}", cycles_table(result.cycles)]
    if described["tried"]:
        parts.insert(0, candidates_table(described, wide))
    parts.append(describe_course(result, convergence)["words"])
    if described["gain"]:
        parts.append(described["gain"]["words"])
    if not result.accepted.all():
        parts += ["", rejections_table(result), rejected_table(identifiers, result, order, wide)]
    return "\n".join(parts)


def outcome(summary: dict, wide: bool = False) -> str:
    """
    What came of it: the data set before and after, as a whole and by resolution, the parameters, and what the
    observations say of the space group; all of it as the summary (summary.make_summary) has it.
    """
    return f"""
{dataset_table(summary)}
{observations_line(summary["dataset"])}

Scaled only, by resolution:
{shells_table(summary["before"], wide)}

{"Written, scaled only" if summary["scaled_only"] else "Postrefined"}, by resolution:
{shells_table(summary["after"], wide)}
{anomalous_table(summary)}
{parameters_table(summary)}

{partiality_table(summary)}

{error_model_lines(summary["error_model"])}

{systematics_table(summary["systematics"])}

{symmetry_table(summary)}"""


def observations_line(dataset: dict) -> str:
    """What became of the observations that can be used."""
    return (
        f"Of {dataset['n_observations']} usable observations {dataset['n_merged']} were merged, "
        f"{dataset['n_outliers']} are outliers, {dataset['n_below_threshold']} below the partiality threshold, "
        f"{dataset['n_of_rejected']} of rejected lattices."
    )


def symmetry_table(summary: dict) -> str:
    """The operations of the space group and its absences (stills/symmetry.py)."""
    rows = symmetry_rows(summary, partial(number, pattern="{:.3f}"), "NOT supported")
    headers = ["operation", "of the crystals", "CC", "pairs", "by chance", "verdict"]
    return f"{table(rows, headers)}\n{absences_line(summary['symmetry']['absences'])}"


def symmetry_rows(summary: dict, correlation: Callable[[float | None], str], not_supported: str) -> list[list[str]]:
    """A row an operation of the space group; how correlations are written, and the verdict on one that is not there."""
    verdicts = {None: "can't be told", True: "supported", False: not_supported}
    return [
        [
            one["name"],
            "yes" if one["in_input"] else "no",
            correlation(one["cc"]),
            str(one["n_pairs"]),
            correlation(one["chance"]),
            verdicts[one["supported"]],
        ]
        for one in summary["symmetry"]["operations"]
    ]


def error_model_lines(model: dict | None) -> str:
    """The error model, and how wide the normalised residuals are with it."""
    if model is None:
        return "No error model: the variances are those of the counts."
    a, b, c = (model[name] for name in "abc")
    formula = f"Error model: var' = a^2 (var + (b I)^2 + c^2 t I^2), a={a:.3f} b={b:.3f} c={c:.3f}"
    if not model["n"]:
        return f"{formula}, assumed: too few indices were observed more than once."
    widths = " ".join(number(width, "{:.2f}") for width in model["widths"])
    return f"{formula},\nfrom {model['n']} residuals; their widths by tenths of the intensity, weak to strong: {widths}"


def shells_table(shells: Sequence[MergedShell | dict], wide: bool = False) -> str:
    """Statistics by resolution shell, the last row all shells together; also as the summary has them."""
    shells = [MergedShell(**s) if isinstance(s, dict) else s for s in shells]
    honest = any(number(s.cc_half_honest, "{}") != "-" for s in shells)
    headers = ["d range (A)", "obs", "unique", "compl.", "mult.", "I/sigma", "CC1/2", "R_split", "CC ref"]
    headers += ["honest CC1/2", "honest R_split"] * honest
    rows = [
        [
            f"{number(s.d_max, '{:.2f}')} - {s.d_min:.2f}",
            str(s.n_observations),
            str(s.n_unique),
            number(100.0 * s.completeness, "{:.1f} %"),
            number(s.multiplicity, "{:.2f}"),
            number(s.i_over_sigma, "{:.1f}"),
            number(s.cc_half, "{:.3f}"),
            number(s.r_split, "{:.3f}"),
            number(s.cc_reference, "{:.3f}"),
            *[number(s.cc_half_honest, "{:.3f}"), number(s.r_split_honest, "{:.3f}")] * honest,
        ]
        for s in shells
    ]
    return table(rows, headers, optional=("CC ref", "obs", "I/sigma"), wide=wide)


def anomalous_table(summary: dict) -> str:
    """The differences of Friedel pairs by resolution shell, as the summary has them; empty where they are merged."""
    if not summary["dataset"]["anomalous"]:
        return ""
    shells = summary["after"]
    honest = any(s["cc_anom_honest"] is not None for s in shells)
    headers = ["d range (A)", "pairs", "anom. compl.", "|DANO|/sigma", "CC_anom"] + ["honest CC_anom"] * honest
    rows = [
        [
            f"{number(s['d_max'], '{:.2f}')} - {s['d_min']:.2f}",
            str(s["n_pairs"]),
            number(s["anom_completeness"], "{:.1%}"),
            number(s["dano_over_sigma"], "{:.2f}"),
            number(s["cc_anom"], "{:.3f}"),
            *[number(s["cc_anom_honest"], "{:.3f}")] * honest,
        ]
        for s in shells
    ]
    return f"\nAnomalous differences I(+) - I(-), by resolution:\n{table(rows, headers)}\n"


def anomalous_rows(before: dict, after: dict) -> list[list[str]]:
    """The differences of Friedel pairs in all: none where these are merged."""
    names = {
        "anomalous completeness": ("anom_completeness", "{:.1%}"),
        "CC_anom": ("cc_anom", "{:.3f}"),
        "CC_anom, honest half sets": ("cc_anom_honest", "{:.3f}"),
        "mean |DANO|/sigma": ("dano_over_sigma", "{:.2f}"),
    }
    return [[name, number(before[key], pattern), number(after[key], pattern)] for name, (key, pattern) in names.items()]


def dataset_table(summary: dict) -> str:
    """The data set before and after in one column each."""
    dataset, before, after = summary["dataset"], summary["before"][-1], summary["after"][-1]

    def both(name, key, pattern):
        return [name, number(before[key], pattern), number(after[key], pattern)]

    correlations = [number(summary["median_correlation"][when], "{:.3f}") for when in ("before", "after")]
    rows = [
        ["lattices", str(dataset["n_lattices"]), str(dataset["n_accepted"])],
        ["observations", str(before["n_observations"]), str(after["n_observations"])],
        ["unique reflections", str(before["n_unique"]), str(after["n_unique"])],
        both("completeness", "completeness", "{:.1%}"),
        both("multiplicity", "multiplicity", "{:.2f}"),
        both("CC1/2", "cc_half", "{:.3f}"),
        both("R_split", "r_split", "{:.3f}"),
        ["CC1/2, honest half sets", "-", number(after["cc_half_honest"], "{:.3f}")],
        ["R_split, honest half sets", "-", number(after["r_split_honest"], "{:.3f}")],
        both("mean I/sigma", "i_over_sigma", "{:.1f}"),
        *(anomalous_rows(before, after) if dataset["anomalous"] else []),
        both("CC to the reference", "cc_reference", "{:.3f}"),
        ["median CC of a lattice", *correlations],
        *free_rows(summary["free"]),
    ]
    return table(rows, ["data set", "scaled only", "postrefined"])


def free_rows(free: dict | None) -> list[list[str]]:
    """The accepted lattices and the free reflections: none where none were held out."""
    if free is None:
        return []
    cc, r = ([number(free[f"{key}_{when}"], "{:.3f}") for when in ("before", "after")] for key in ("cc", "r"))
    return [
        ["free reflections of a lattice, median", "", number(free["n"], "{:.0f}")],
        ["CC_free of a lattice, median", *cc],
        ["R_free of a lattice, median", *r],
        ["worse, back to unrefined geometry", "", str(free["n_reverted"])],
    ]


def parameters_table(summary: dict) -> str:
    """Median, spread and median esd of the refined lattices' parameters: the histograms' (diagnostics.Histogram)."""
    rows = []
    for name, data in summary["histograms"].items():
        if data is not None:
            _, _, factor, pattern = PARAMETERS[name]
            values = (data[key] for key in ("median", "spread", "median_esd"))
            title = label(name, summary).replace("10⁻³ Å⁻¹", "0.001/A").replace("Å²", "A^2")
            rows.append([title, *(positive_zero(number(v, f"{{:{pattern}}}", factor)) for v in values)])
    data = summary["histograms"]["scale"]
    n = 0 if data is None else data["n"]
    line = f"{n} of {summary['dataset']['n_accepted']} accepted lattices were refined and are counted here."
    return f"{table(rows, ['parameter', 'median', 'spread', 'esd'])}\n{line}" if rows else line


def partiality_table(summary: dict) -> str:
    """Observed and predicted partiality before and after by r_h/r_s (diagnostics.PartialityRow)."""
    said = f"Partiality observed and predicted, {model_words(summary)}:"
    rows = partiality_rows(summary)
    return f"{said}\n{table(rows, PARTIALITY)}" if rows else f"{said} too few observations."


def partiality_rows(summary: dict) -> list[list[str]]:
    """The rows of the table, under PARTIALITY."""
    rows = []
    for one in summary["partiality"]["rows"]:
        low, high = (number(one[key], "{:.2f}") for key in ("low", "high"))
        between = f"{low} to {high}" if "-" not in (low, high) else f"below {high}" if low == "-" else f"above {low}"
        row = ["all" if low == high == "-" else between]
        for part in (one["before"], one["after"]):
            observed = " +- ".join(number(part[key], "{:.3f}") for key in ("observed", "observed_esd"))
            row += [str(part["n"]), observed, number(part["predicted"], "{:.3f}")]
        rows.append(row)
    return rows


def cycles_table(cycles: list[Cycle]) -> str:
    """One row a cycle."""
    rows = [
        [
            str(i + 1),
            str(c.n_accepted),
            number(c.correlation, "{:.3f}"),
            number(c.change, "{:.4f}"),
            number(c.change_esd, "{:.3f}"),
            number(c.agreement, "{:.3f}"),
            "yes" if c.damped else "no",
        ]
        for i, c in enumerate(cycles)
    ]
    headers = ["cycle", "accepted", "mean CC of a lattice", "change of I", "in esds", "unseen CC", "damped"]
    return table(rows, headers)


def candidates_table(described: dict, wide: bool = False) -> str:
    """What was tried, as choice.describe_choice has it."""
    return f"{table(candidate_rows(described), list(HEADERS), optional=('accepted', 'n'), wide=wide)}\n{TRIED}"


def all_rejected(result: PostrefinedStills) -> str:
    """What to say where no lattice is left."""
    reason = next(iter(count_rejected(result)))
    return (
        f"All {len(result.reasons)} lattices were rejected, most often because of '{reason}': check space group, "
        "resolution limits and reference."
    )


def rejections_table(result: PostrefinedStills) -> str:
    """Lattices out by reason, most frequent first."""
    return table([[reason, str(n)] for reason, n in count_rejected(result).items()], ["rejected because", "lattices"])


def rejected_table(
    identifiers: Sequence[str], result: PostrefinedStills, order: Sequence[int], wide: bool = False
) -> str:
    """Each rejected lattice with its reason and how far its fit came."""
    rows = [
        [
            identifiers[k],
            result.reasons[k].value,
            str(result.fits[k].n_matched),
            number(result.fits[k].model_correlation, "{:.3f}"),
            number(result.fits[k].partial_correlation, "{:.3f}"),
        ]
        for k in order
        if result.reasons[k] is not None
    ]
    headers = ["lattice", "rejected because", "matched", "CC(model)", "partial CC"]
    return table(rows, headers, optional=("partial CC", "matched", "CC(model)"), wide=wide)


def input_lines(
    stills: Stills,
    space_group: str,
    cell: Sequence[float],
    n_excluded: dict[str, int],
    ambiguity: Ambiguity | None = None,
    choices: Sequence[tuple[str, int]] = (),
    reindexed: bool = True,
) -> str:
    """
    What was read and what of it can be used, and how it was reindexed where the lattice leaves a choice; choices are
    the operations of lattices indexed with another cell, each with their number.
    """
    n_usable, not_used = usable_and_not(stills, n_excluded)
    n_unique = int(np.count_nonzero(~stills.absent))
    lines = [
        f"{stills.n_lattices} lattices, {n_usable + sum(not_used.values())} observations, "
        f"{n_usable} usable observations of {n_unique} unique indices",
        f"Space group {space_group}, median unit cell {', '.join(f'{x:.2f}' for x in cell)}",
    ]
    if not_used:
        lines.append("Not used: " + ", ".join(f"{n} {reason}" for reason, n in not_used.items()))
    if choices:
        lines.append(choices_lines(choices, reindexed))
    if ambiguity is not None:
        lines.append(ambiguity_lines(ambiguity))
    return "\n".join(lines)


def choices_lines(counts: Sequence[tuple[str, int]], reindexed: bool) -> str:
    """How many lattices were indexed with another choice of the unit cell, by operation, and what was done."""
    done = "reindexed" if reindexed else "rejected, as reindex=none wants; dials.reindex change_of_basis_op= is"
    rows = [[name, str(n)] for name, n in counts]
    total = sum(n for _, n in counts)
    return f"{total} lattices, indexed with another choice of the unit cell, are {done}:\n" + table(
        rows, ["by", "lattices"]
    )


def ambiguity_lines(ambiguity: Ambiguity) -> str:
    """How many lattices were reindexed by which operation, and how probable it is."""
    choice = ambiguity.choice
    text = (
        f"The lattice is of higher symmetry than the space group: {len(ambiguity.operations)} ways to index it.\n"
        f"The intensities tell them apart with a mean probability of {number(choice.mean_probability, '{:.3f}')}"
    )
    if not choice.resolved:
        return f"{text}, too low to reindex any of them; more lattices, or another reference, may."
    counts = np.bincount(choice.operation, minlength=len(ambiguity.operations))
    rows = [[name, str(n)] for name, n in zip(ambiguity.operations, counts)]
    return f"{text}:\n{table(rows, ['reindexed by', 'lattices'])}"


def merge_command(experiments: str, reflections: str, partiality_threshold: float, s0: np.ndarray) -> str:
    """
    The dials.merge command that keeps what was kept; s0 (n, 3) of the lattices that were.

    Its own partiality threshold would drop more, and wavelengths further apart than 1e-4 A would be merged apart.
    """
    files = shlex.join([experiments, reflections])
    command = f"dials.merge {files} partiality_threshold={float(partiality_threshold)!r}"
    wavelength = 1.0 / np.linalg.norm(s0, axis=1)
    spread = wavelength.max() - wavelength.min()
    return command + (f" wavelength_tolerance={np.ceil(110.0 * spread) / 100.0:g}" if spread > 1e-4 else "")
