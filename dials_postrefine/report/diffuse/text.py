"""What the log of dials.diffuse_map says, from its summary (summary.py)."""

from __future__ import annotations

from dials_postrefine.report.common.tables import number, table
from dials_postrefine.report.diffuse.summary import OFFSET_LETTERS

MOST_SKIPPED = 20
# Columns of the table by shell: key, header, pattern, factor.
COLUMNS = (
    ("completeness", "compl.", "{:.1f} %", 100.0),
    ("pixels", "pixels", "{:.1f}", 1.0),
    ("equivalents", "equiv.", "{:.2f}", 1.0),
    ("mean", "mean", "{:.4g}", 1.0),
    ("sigma", "sigma", "{:.3g}", 1.0),
    ("anisotropy", "aniso/sig", "{:.2f}", 1.0),
    ("cc_half", "CC1/2", "{:.3f}", 1.0),
    ("cc_friedel", "CC_Fried", "{:.3f}", 1.0),
    ("cc_laue", "CC_Laue", "{:.3f}", 1.0),
    ("chi_sq", "chi^2", "{:.2f}", 1.0),
    ("cos_2phi", "cos 2phi", "{:+.3f}", 1.0),
    ("sin_2phi", "sin 2phi", "{:+.3f}", 1.0),
    ("masked", "masked", "{:.1f} %", 100.0),
)
EXPLANATION = (
    "pixels, equiv.: a voxel has of them; aniso/sig: rms of the anisotropic part, less its noise, over sigma; "
    "correlations are of the anisotropic part: CC1/2 of half sets, CC_Fried of Friedel pairs, CC_Laue of each "
    "voxel with its equivalents; chi^2 is against Poisson's law; cos 2phi, sin 2phi: variation with the azimuth on the "
    "detector, 0 where polarisation is right."
)


def summary_text(summary: dict, wide: bool = False) -> str:
    """The map, its statistics by shell, the index offset, the images that were not used."""
    parts = [
        map_lines(summary),
        "",
        shells_table(summary, wide),
        EXPLANATION,
        "",
        offset_line(summary),
        masked_line(summary),
    ]
    scales = scale_line(summary)
    parts += [scales] if scales else []
    parts += [absolute_line(summary["absolute"])] if summary.get("absolute") else []
    parts += ["", terms_table(summary)] if summary["scaling"] else []
    skipped = skipped_table(summary)
    parts += ["", skipped] if skipped else []
    return "\n".join(parts)


def map_lines(summary: dict) -> str:
    """What map it is."""
    grid, total = summary["grid"], summary["shells"][-1]
    size = f"{grid['spacing']:g} 1/A" if grid["subdivide"] is None else " x ".join(f"1/{n}" for n in grid["subdivide"])
    return (
        f"{summary['n_images_used']} of {summary['n_images']} images, {grid['n_voxels']} voxels of {size} "
        f"({grid['memory'] / 2**20:.0f} MiB), {grid['n_operations']} operations of symmetry.\n"
        f"{total['n']} of {total['n_possible']} unique voxels between {number(total['d_max'], '{:.2f}')} and "
        f"{total['d_min']:.2f} A were observed; intensities in "
        f"{summary['dataset']['unit']}."
    )


def shells_table(summary: dict, wide: bool = False) -> str:
    """Statistics by resolution shell, the last row all shells together."""
    rows = [
        [
            f"{number(shell['d_max'], '{:.2f}')} - {shell['d_min']:.2f}",
            str(shell["n"]),
            *(
                number(None if shell[key] is None else factor * shell[key], pattern)
                for key, _, pattern, factor in COLUMNS
            ),
        ]
        for shell in summary["shells"]
    ]
    headers = ["d range (A)", "voxels", *(header for _, header, _, _ in COLUMNS)]
    return table(rows, headers, optional=("masked", "sin 2phi", "cos 2phi", "equiv.", "sigma", "CC_Fried"), wide=wide)


def offset_line(summary: dict) -> str:
    """The mean offset of the indices of strong spots."""
    offset = summary["index_offset"]
    if not offset["n_spots"]:
        return "Mean fractional index offset: there are no strong spots."
    values = ", ".join(
        f"{letter} {number(mean, '{:+.4f}')} +- {number(esd, '{:.4f}')}"
        for letter, mean, esd in zip(OFFSET_LETTERS, offset["mean"], offset["esd"])
    )
    return f"Mean fractional index offset of {offset['n_spots']} strong spots: {values} (should be 0)"


def masked_line(summary: dict) -> str:
    """How much was masked and rejected."""

    def percent(value):
        return number(None if value is None else 100.0 * value, "{:.2f} %")

    pixels = summary["pixels"]
    not_used = ", ".join(f"{n} {reason}" for reason, n in pixels["not_used"].items())
    return (
        f"Masked as Bragg peaks: {percent(summary['masked'])}; rejected as outliers: {percent(summary['rejected'])}\n"
        f"{pixels['n_averaged']} of {pixels['n_input']} pixels were averaged"
        + (f". Not used: {not_used}" if not_used else "")
    )


def scale_line(summary: dict) -> str:
    """The range of the scales of images."""
    scales = [image["scale"] for image in summary["images"] if image["scale"] is not None]
    if not scales or summary["settings"]["scale"] == "none":
        return ""
    return f"Scales of images, relative to their mean: {min(scales):.3f} to {max(scales):.3f}"


def absolute_line(absolute: dict) -> str:
    """What the map is to be multiplied by to be on an absolute scale."""
    return (
        f"Absolute scale: {absolute['factor']:.4g} +- {absolute['esd']:.2g} electrons^2 a unit cell, of "
        f"{absolute['composition']}, for each unit of intensity, from {absolute['d_max']:.2f} to "
        f"{absolute['d_min']:.2f} A, where {100.0 * absolute['incoherent']:.0f} % is incoherent"
    )


def terms_table(summary: dict) -> str:
    """The terms that scale images against each other by symmetry equivalents, and which of them pay."""
    scaling = summary["scaling"]
    rows = [
        [
            one["name"],
            f"{one['n_seen']} of {one['n_coefficients']}",
            f"{100.0 * one['gain']:+.2f} %",
            f"{one['significance']:+.1f}",
            "yes" if one["kept"] else "no",
            f"{100.0 * one['size']:.2f} +- {100.0 * one['esd']:.2f} %" if one["kept"] else "-",
        ]
        for one in scaling["terms"]
    ]
    headers = ["term", "modes seen", "held out", "errors", "kept", "size"]
    return (
        f"Scaling by symmetry equivalents ({scaling['n_fitted']} of {scaling['n_records']} sums of blocks of images):\n"
        + table(rows, headers)
        + "\nheld out: by how much the misfit of equivalents that were held out is less; errors: over that of it; "
        "size: rms of the term, of the intensity."
    )


def skipped_table(summary: dict) -> str:
    """The images that were not used, and why."""
    skipped = [image for image in summary["images"] if image["error"] is not None]
    rows = [[image["series"], str(image["number"]), image["error"]] for image in skipped[:MOST_SKIPPED]]
    if len(skipped) > MOST_SKIPPED:
        rows.append([f"and {len(skipped) - MOST_SKIPPED} more", "", ""])
    return table(rows, ["series", "image", "not used because"]) if rows else ""
