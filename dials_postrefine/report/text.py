"""The tables of the log."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence

import numpy as np
from tabulate import tabulate

from dials_postrefine.stills.cycles import Cycle, PostrefinedStills
from dials_postrefine.stills.dataset import Stills
from dials_postrefine.stills.errormodel import ErrorModel
from dials_postrefine.stills.merging import MAD_TO_SIGMA, Shell
from dials_postrefine.stills.model import (
    B_FACTOR,
    CELL_SCALE,
    LN_MOSAICITY,
    LN_RADIUS,
    LN_SCALE,
    N_PARAMETERS,
    THETA_X,
    THETA_Y,
)
from dials_postrefine.stills.reindexing import Ambiguity
from dials_postrefine.stills.selection import Candidate
from dials_postrefine.stills.statistics import Statistics

FAR_FROM_SETTLED = 10.0  # times the convergence limit, after the last cycle


def table(rows: Sequence[Sequence], headers: Sequence[str], formats: Sequence[str] = ()) -> str:
    """A table of text, or with formats of numbers, as DIALS' logs have them."""
    return tabulate(
        rows, headers, tablefmt="psql", floatfmt=formats or "g", missingval="-", disable_numparse=not formats
    )


def number(value: float | None, pattern: str) -> str:
    """A number as text, a dash for one that does not exist."""
    return pattern.format(value) if value is not None and np.isfinite(value) else "-"


def course(
    identifiers: Sequence[str], result: PostrefinedStills, tried: Sequence[Candidate], order: Sequence[int]
) -> str:
    """
    How the run went: what was tried where there was a choice, the cycles, and the lattices that were rejected, in this
    order of their numbers.
    """
    parts = [cycles_table(result.cycles)]
    if tried:
        parts.insert(
            0,
            f"{candidates_table(tried)}\nChosen: profile={result.profile} radius={result.radius} "
            f"unit_cell={result.unit_cell}",
        )
    if not result.accepted.all():
        parts += ["", rejections_table(result), rejected_table(identifiers, result, order)]
    return "\n".join(parts)


def outcome(stills: Stills, result: PostrefinedStills, statistics: Statistics) -> str:
    """What came of it: the data set before and after, as a whole and by resolution, and the parameters."""
    return f"""
{dataset_table(stills, result, statistics)}

Scaled only, by resolution:
{shells_table(statistics.before)}

Postrefined, by resolution:
{shells_table(statistics.after)}

{parameters_table(result)}

{error_model_lines(result.error_model)}"""


def error_model_lines(model: ErrorModel | None) -> str:
    """The error model, and how wide the normalised residuals are with it."""
    if model is None:
        return "No error model: the variances are those of the counts."
    formula = f"Error model: var' = a^2 (var + (b I)^2 + c^2 t I^2), a={model.a:.3f} b={model.b:.3f} c={model.c:.3f}"
    if not model.n:
        return f"{formula}, assumed: too few indices were observed more than once."
    widths = " ".join(f"{width:.2f}" for width in model.widths)
    return f"{formula},\nfrom {model.n} residuals; their widths by tenths of the intensity, weak to strong: {widths}"


def shells_table(shells: list[Shell]) -> str:
    """Statistics by resolution shell, the last row all shells together."""
    honest = any(np.isfinite(s.cc_half_honest) for s in shells)
    headers = ["d range (A)", "obs", "unique", "compl.", "mult.", "I/sigma", "CC1/2", "R_split", "CC ref"]
    headers += ["honest CC1/2", "R_split"] * honest
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
    return table(rows, headers)


def dataset_table(stills: Stills, result: PostrefinedStills, statistics: Statistics) -> str:
    """The data set before and after in one column each."""
    before, after = statistics.before[-1], statistics.after[-1]
    accepted = result.accepted
    correlations = [
        [np.median([getattr(result.fits[k], name) for k in np.flatnonzero(accepted)] or [np.nan])]
        for name in ("correlation_before", "correlation_after")
    ]
    rows = [
        ["lattices", str(stills.n_lattices), str(np.count_nonzero(accepted))],
        ["observations", str(len(stills.unique)), str(np.count_nonzero(result.kept & ~result.outlier))],
        ["unique reflections", str(before.n_unique), str(after.n_unique)],
        ["completeness", f"{before.completeness:.1%}", f"{after.completeness:.1%}"],
        ["multiplicity", number(before.multiplicity, "{:.2f}"), number(after.multiplicity, "{:.2f}")],
        ["CC1/2", number(before.cc_half, "{:.3f}"), number(after.cc_half, "{:.3f}")],
        ["R_split", number(before.r_split, "{:.3f}"), number(after.r_split, "{:.3f}")],
        ["CC1/2, honest half sets", "-", number(after.cc_half_honest, "{:.3f}")],
        ["R_split, honest half sets", "-", number(after.r_split_honest, "{:.3f}")],
        ["mean I/sigma", number(before.i_over_sigma, "{:.1f}"), number(after.i_over_sigma, "{:.1f}")],
        ["CC to the reference", number(before.cc_reference, "{:.3f}"), number(after.cc_reference, "{:.3f}")],
        ["median CC of a lattice", *(number(*value, "{:.3f}") for value in correlations)],
        *free_rows(result),
    ]
    return table(rows, ["data set", "scaled only", "postrefined"])


def free_rows(result: PostrefinedStills) -> list[list[str]]:
    """The accepted lattices and the free reflections: none where none were held out."""
    free, accepted = result.free, result.accepted
    if not free.n.any():
        return []

    def median(values):
        known = values[accepted & np.isfinite(values)]
        return number(np.median(known) if len(known) else np.nan, "{:.3f}")

    return [
        ["free reflections of a lattice, median", "", f"{np.median(free.n[accepted]):.0f}"],
        ["CC_free of a lattice, median", median(free.cc_before), median(free.cc_after)],
        ["R_free of a lattice, median", median(free.r_before), median(free.r_after)],
        ["worse, back to unrefined geometry", "", str(np.count_nonzero(free.reverted))],
    ]


def parameters_table(result: PostrefinedStills) -> str:
    """Median, spread (1.48 times the median absolute deviation) and median esd of the accepted lattices' parameters."""
    accepted = result.accepted
    x = result.x[accepted]
    esd = np.sqrt(np.array([np.diag(c) for c in result.covariance[accepted]])).reshape(-1, N_PARAMETERS)
    scale, radius = np.exp(x[:, LN_SCALE]), np.exp(x[:, LN_RADIUS])
    columns = {
        "scale G": (scale, scale * esd[:, LN_SCALE]),
        "B (A^2), a quarter of the conventional": (x[:, B_FACTOR], esd[:, B_FACTOR]),
        "theta_x (degrees)": (np.degrees(x[:, THETA_X]), np.degrees(esd[:, THETA_X])),
        "theta_y (degrees)": (np.degrees(x[:, THETA_Y]), np.degrees(esd[:, THETA_Y])),
        "radius r_0 (1/A)" if result.radius == "mosaic" else "radius r_s (1/A)": (radius, radius * esd[:, LN_RADIUS]),
    }
    if result.radius == "mosaic":
        eta = np.degrees(np.exp(x[:, LN_MOSAICITY]))
        columns["mosaicity eta (degrees)"] = eta, eta * esd[:, LN_MOSAICITY]
    if result.unit_cell == "scale":
        columns["scale of the reciprocal cell - 1 (%)"] = 100.0 * x[:, CELL_SCALE], 100.0 * esd[:, CELL_SCALE]
    rows = []
    for name, (values, esds) in columns.items():
        median = np.median(values)
        spread = MAD_TO_SIGMA * np.median(np.abs(values - median))
        rows.append([name, *(f"{number:.3g}" for number in (median, spread, np.median(esds)))])
    return table(rows, ["parameter", "median", "spread", "esd"])


def cycles_table(cycles: list[Cycle]) -> str:
    """One row a cycle."""
    rows = [
        [str(i + 1), str(c.n_accepted), number(c.correlation, "{:.3f}"), number(c.change, "{:.4f}")]
        for i, c in enumerate(cycles)
    ]
    return table(rows, ["cycle", "accepted", "mean CC of a lattice", "change of the merged I"])


def unsettled_warning(change: float) -> str:
    """What to say where the last cycle still changed the merged intensities by far too much."""
    return (
        f"The merged intensities still change by {change:.0%} from cycle to cycle: the lattices have too few "
        "reflections in common for a reference of their own; give one with reference=."
    )


def candidates_table(candidates: Sequence[Candidate]) -> str:
    """The profiles and radii that were tried, with the median held-out correlation of a lattice."""
    rows = [[c.profile, c.radius, c.unit_cell, number(c.correlation, "{:.3f}"), str(c.n_accepted)] for c in candidates]
    return table(rows, ["profile", "radius", "unit cell", "held-out CC(amplitudes)", "accepted"])


def all_rejected(result: PostrefinedStills) -> str:
    """What to say where no lattice is left."""
    reason = Counter(reason.value for reason in result.reasons).most_common(1)[0][0]
    return (
        f"All {len(result.reasons)} lattices were rejected, most often because of '{reason}': check space group, "
        "resolution limits and reference."
    )


def rejections_table(result: PostrefinedStills) -> str:
    """Lattices out by reason, most frequent first."""
    counted = Counter(reason.value for reason in result.reasons if reason is not None)
    return table([[reason, str(n)] for reason, n in counted.most_common()], ["rejected because", "lattices"])


def rejected_table(identifiers: Sequence[str], result: PostrefinedStills, order: Sequence[int]) -> str:
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
    return table(rows, ["lattice", "rejected because", "matched", "CC(model)", "partial CC"])


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
    lines = [
        f"{stills.n_lattices} lattices, {len(stills.unique)} usable observations of {stills.n_unique} unique indices",
        f"Space group {space_group}, median unit cell {', '.join(f'{x:.2f}' for x in cell)}",
    ]
    if n_excluded:
        lines.append("Not used: " + ", ".join(f"{n} {reason}" for reason, n in n_excluded.items()))
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


def wavelength_remark(groups: Sequence[dict]) -> str | None:
    """
    What to do where the wavelengths fall into groups, each with wavelength and n_lattices; None for a single one.

    The tolerance for dials.merge is half of the smallest difference of two groups.
    """
    if len(groups) < 2:
        return None
    found = ", ".join(f"{group['wavelength']:.5f} A ({group['n_lattices']} lattices)" for group in groups)
    values = np.array([group["wavelength"] for group in groups])
    tolerance = 0.5 * np.diff(np.sort(values)).min()
    return (
        f"The lattices are of {len(groups)} wavelengths, {found}, and are merged into one data set: the anomalous "
        "differences of each are lost. Postrefine the lattices of each wavelength by themselves, all against one "
        f"reference=, or let dials.merge keep them apart with wavelength_tolerance={tolerance:.2g}."
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
    The dials.merge command that keeps what was kept.

    Its own partiality threshold would drop more, and wavelengths further apart than 1e-4 A would be merged apart.
    """
    files = shlex.join([experiments, reflections])
    command = f"dials.merge {files} partiality_threshold={partiality_threshold:g}"
    wavelength = 1.0 / np.linalg.norm(s0, axis=1)
    spread = wavelength.max() - wavelength.min()
    return command + (f" wavelength_tolerance={np.ceil(110.0 * spread) / 100.0:g}" if spread > 1e-4 else "")
