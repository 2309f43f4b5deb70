"""What the log of dials.image_spread says, from its summary (summary.py)."""

from __future__ import annotations

from dials_postrefine.report.common.explained import spread_lines
from dials_postrefine.report.common.tables import absences_line, number, table

MOST_PAIRS, MOST_EXPERIMENTS = 10, 20
# Whose the errors are, beyond which the spread is measured.
ERRORS = {
    "counting": "the errors of their counts",
    "scaled": "the errors that dials.scale gives them",
    "of the column": "the errors of their column",
}
EXPLANATION = (
    "tau: how far symmetry equivalents differ beyond what {errors} say, relative to their intensity, with its 95 % "
    "interval. log spread: of ln(I1/I2), robust, over sqrt 2; expected: what the errors allow; z: width of (I1 - "
    "k I2)/sigma, 1 where the errors are right."
)
CAUSES = {
    "zone axis": "angle to a zone axis",
    "intensity": "intensity",
    "noise": "noise",
    "images": "factor of the image",
    "beam": "beam intensity",
}

CAUSES_EXPLAINED = (
    "the angle (degrees) is that of the beam to the nearest zone axis of low indices, noise the relative error, both "
    "it and the intensity as ranks from 0 (least) to 1; share: of tau^2"
)


def text(summary: dict, wide: bool = False) -> str:
    """All of it."""
    parts = [
        data_lines(summary),
        spread_table(summary),
        shells_table(summary),
        experiments_table(summary),
        pairs_lines(summary),
        best_pairs_table(summary, wide),
        EXPLANATION.format(errors=ERRORS[summary["dataset"]["variance"]]),
        compared_table(summary),
        random_lines(summary),
        causes_table(summary),
        spread_lines(summary["dynamical"]),
    ]
    return "\n".join(part for part in parts if part)


def interval(tau: dict, pattern: str = "{:.3f}") -> str:
    """tau with its interval."""
    if tau["tau"] is None:
        return "-"
    return f"{number(tau['tau'], pattern)} [{number(tau['low'], pattern)}, {number(tau['high'], pattern)}]"


def esd(value: float | None, of_value: float | None, pattern: str = "{:.3f}") -> str:
    """A number with its standard deviation."""
    return f"{number(value, pattern)} +- {number(of_value, pattern)}" if value is not None else "-"


def data_lines(summary: dict) -> str:
    """What was read."""
    data = summary["dataset"]
    lines = [
        f"{data['n_images']} images of {len(data['experiments'])} experiment{'s' * (len(data['experiments']) > 1)}, "
        f"{data['n_observations']} observations of {data['n_unique']} unique indices, {data['d_max']:.2f} to "
        f"{data['d_min']:.2f} A",
        f"Intensities: {data['column']}{' / inverse_scale_factor' * data['column'].startswith('intensity.scale')}, "
        f"variances {data['variance']}, outliers {data['outliers']}; beam intensity: {data['beam_intensity']}",
    ]
    if data["images_taken_as_one"] > 1:
        lines.append(f"Up to {data['images_taken_as_one']} images of the detector were taken as one.")
    if summary["not_used"]:
        lines.append("Not used: " + ", ".join(f"{n} {reason}" for reason, n in summary["not_used"].items()))
    if summary["absences"]["n"]:
        lines.append(absences_line(summary["absences"], used=True))
    return "\n".join(lines)


def spread_table(summary: dict) -> str:
    """tau as a whole and by intensity."""
    spread = summary["spread"]
    rows = [
        ["all", interval(spread["overall"]), str(spread["overall"]["n"]), str(spread["overall"]["n_unique"]), "", ""]
    ]
    named = [(f"quartile {k + 1} by intensity", group) for k, group in enumerate(spread["quartiles"])]
    for name, group in [*named, *((part["name"], part) for part in spread["parts"])]:
        rows.append(
            [
                name,
                interval(group),
                str(group["n"]),
                str(group["n_unique"]),
                number(group["intensity"], "{:.4g}"),
                number(group["relative_error"], "{:.3f}"),
            ]
        )
    headers = ["", "tau [95 %]", "obs.", "unique", "median I", "sigma/I"]
    return (
        f"\nExcess relative spread of symmetry equivalents; R_meas {number(spread['r_meas'], '{:.3f}')}, "
        f"{spread['n_without_equivalent']} observations without an equivalent:\n{table(rows, headers)}"
    )


def shells_table(summary: dict) -> str:
    """tau by resolution."""
    rows = [
        [
            f"{number(s['d_max'], '{:.2f}')} - {number(s['d_min'], '{:.2f}')}",
            interval(s),
            str(s["n"]),
            str(s["n_unique"]),
        ]
        for s in summary["spread"]["shells"]
    ]
    return table(rows, ["d range (A)", "tau [95 %]", "obs.", "unique"])


def experiments_table(summary: dict) -> str:
    """tau by experiment, where there are several."""
    experiments = summary["spread"]["experiments"]
    if len(experiments) < 2:
        return ""
    rows = [[e["name"], interval(e), str(e["n"])] for e in experiments[:MOST_EXPERIMENTS]]
    more = len(experiments) - MOST_EXPERIMENTS
    return table(rows, ["experiment", "tau [95 %]", "obs."]) + (f"\nand {more} more" if more > 0 else "")


def pairs_lines(summary: dict) -> str:
    """How many pairs there are, and how well they agree."""
    pairs, settings, whole = summary["pairs"], summary["settings"], summary["pairs"]["whole"]
    apart = f", {settings['min_angle']:g} degrees apart or more" if settings["min_angle"] else ""
    analysed = "" if pairs["n_found"] == pairs["n_analysed"] else f" ({pairs['n_analysed']} of them analysed)"
    return (
        f"\n{pairs['n_found']} pairs of images{analysed} have {settings['min_common']} reflections or more in common "
        f"(match={settings['match']}){apart}.\nAll {whole['n']} matched spots, {whole['n_strong']} of them with "
        f"I/sigma > {settings['strong']:g} on both images: log spread "
        f"{esd(whole['log_spread'], whole['log_spread_esd'])}, expected {number(whole['expected'], '{:.3f}')}; R "
        f"{esd(whole['r'], whole['r_esd'])}, CC {number(whole['cc'], '{:.3f}')}, CC of ln I "
        f"{number(whole['cc_log'], '{:.3f}')}, z {number(whole['z_width'], '{:.2f}')}"
    )


def best_pairs_table(summary: dict, wide: bool = False) -> str:
    """The pairs with most reflections in common."""
    rows = [
        [
            pair["first"],
            pair["second"],
            str(pair["n_common"]),
            number(pair["jaccard"], "{:.2f}"),
            number(pair["misorientation"], "{:.1f}"),
            number(pair["log_spread"], "{:.3f}"),
            number(pair["expected"], "{:.3f}"),
            number(pair["r"], "{:.3f}"),
            number(pair["cc"], "{:.3f}"),
            number(pair["z_width"], "{:.2f}"),
            number(pair["llr"], "{:+.2f}"),
            number(pair["p"], "{:.3f}"),
        ]
        for pair in summary["pairs"]["best"][:MOST_PAIRS]
    ]
    headers = "image,image,common,Jaccard,angle,log spread,expected,R,CC,z,LLR,p".split(",")
    return f"The pairs with most in common:\n{table(rows, headers, optional=('Jaccard', 'expected', 'LLR'), wide=wide)}"


def compared_table(summary: dict) -> str:
    """The spread of one column of intensities beside that of another."""
    if summary["compare"] is None:
        return ""
    rows = [
        [
            name,
            interval(column["tau"]),
            number(column["r_meas"], "{:.3f}"),
            esd(column["pairs"]["log_spread"], column["pairs"]["log_spread_esd"]),
            number(column["pairs"]["r"], "{:.3f}"),
            number(column["pairs"]["cc"], "{:.3f}"),
        ]
        for name, column in summary["compare"]["columns"].items()
    ]
    return "\nThe same observations:\n" + table(rows, ["intensity", "tau [95 %]", "R_meas", "log spread", "R", "CC"])


def random_lines(summary: dict) -> str:
    """Whether matched pairs are told from random ones."""
    test = summary["random_match"]
    return (
        f"\nMatched against random pairs: AUC {esd(test['auc'], test['auc_esd'])}, "
        f"{number(test['significant'], '{:.0%}')} of {test['n_tested']} pairs with p < 0.05 in "
        f"{test['n_permutations']} permutations; correlation of symmetry equivalents {number(test['rho'], '{:.3f}')}."
    )


def causes_table(summary: dict) -> str:
    """The causes, what explains most first."""
    causes = summary["causes"]
    rows = []
    for cause in causes["ranked"]:
        low, high = cause["tau_at"] or (None, None)
        at = [number(x, "{:.2f}") for x in cause["x_at"] or (None, None)]
        effect = f"tau {number(low, '{:.3f}')} at {at[0]}, {number(high, '{:.3f}')} at {at[1]}"
        value, *interval_of = (number(cause[key], "{:.3f}") for key in ("value", "low", "high"))
        if cause["name"] == "images":
            effect = f"factors vary by {value} [{', '.join(interval_of)}]"
        elif cause["name"] == "beam":
            value, *interval_of = (number(cause[key], "{:+.2f}") for key in ("value", "low", "high"))
            effect = f"slope {value} [{', '.join(interval_of)}]"
        share = number(cause["share"], "{:.0%}")
        gain, p = number(cause["gain"], "{:.1f}"), number(cause["p"], "{:.1e}")
        rows.append([CAUSES[cause["name"]], effect, share, gain, p])
    lines = [f"\nWhat the spread depends on, each cause by itself; {CAUSES_EXPLAINED}:"]
    lines.append(table(rows, ["cause", "effect", "share", "gain in ln L", "p"]))
    lines += [f"Not tested: {CAUSES[name]}, as {why}." for name, why in causes["untested"].items()]
    left = ", ".join(f"{out['fraction']:.0%}: {interval(out)}" for out in causes["left_out"])
    lines.append(f"tau without the noisiest observations, {left}")
    return "\n".join(lines)
