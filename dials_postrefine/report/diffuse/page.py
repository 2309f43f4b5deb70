"""
The page of dials.diffuse_map: what its JSON summary (summary.py) says, and pictures of planes of the map.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from dials_postrefine.diffuse.map.sections import MapSection
from dials_postrefine.report.common import pictures, plots
from dials_postrefine.report.common.page import NO_NUMBER, Fact, Figure, Page, Section, Table, number
from dials_postrefine.report.common.plots import BLUE, GREEN, GREY, RED, Curve
from dials_postrefine.report.common.remarks import grade_of
from dials_postrefine.report.diffuse.remarks import AZIMUTHAL
from dials_postrefine.report.diffuse.scaling import scaling_section
from dials_postrefine.report.diffuse.summary import OFFSET_LETTERS

UNITS = {"photons/(s sr)": "photons s⁻¹ sr⁻¹", "photons/sr": "photons sr⁻¹"}
NAMES = {"intensity": "total", "anisotropic": "anisotropic part"}
SERIES_COLOURS = (BLUE, RED, GREEN, GREY, "#8a5fa8", "#c8871f")
# Columns of the table by shell: key, header, pattern.
COLUMNS = (
    ("completeness", "complete", ".1%"),
    ("pixels", "pixels", ".1f"),
    ("equivalents", "equivalents", ".2f"),
    ("mean", "mean", ".3f"),
    ("sigma", "sigma", ".4f"),
    ("anisotropy", "aniso/σ", ".2f"),
    ("cc_half", "CC1/2", ".3f"),
    ("cc_friedel", "CC_Friedel", ".3f"),
    ("cc_laue", "CC_Laue", ".3f"),
    ("chi_sq", "χ²", ".2f"),
    ("cos_2phi", "cos 2φ", "+.3f"),
    ("sin_2phi", "sin 2φ", "+.3f"),
    ("masked", "masked", ".1%"),
)
CORRECTIONS = {
    "solid_angle": "solid angle",
    "polarization": "polarisation",
    "efficiency": "efficiency of the sensor",
    "air": "air",
}
SCALES = {
    "none": "none",
    "per_image": "by the level of each image",
    "smooth": "by a smooth function of the level",
    "from_refl": "by the factors of dials.scale",
}


def make_page(summary: dict, sections: Sequence[MapSection]) -> Page:
    """The page of a summary (summary.make_summary, or its JSON read back) and sections of the map."""
    return Page(
        title="dials.diffuse_map",
        provenance=summary["provenance"],
        lead=[_verdict(summary)],
        facts=_facts(summary),
        verdict=summary["verdict"],
        sections=[
            _planes(sections, "intensity", _unit(summary)),
            _planes(sections, "anisotropic", _unit(summary)),
            _by_resolution(summary),
            *([scaling_section(summary["scaling"])] if summary["scaling"] else []),
            _images(summary),
            _dataset(summary),
        ],
    )


def _unit(summary: dict) -> str:
    return UNITS[summary["dataset"]["unit"]]


def _verdict(summary: dict) -> str:
    total = summary["shells"][-1]
    between = "to" if total["d_max"] is None else f"between {total['d_max']:.2f} and"
    return (
        f"{summary['n_images_used']} of {summary['n_images']} images gave {total['n']} of {total['n_possible']} unique "
        f"voxels {between} {total['d_min']:.2f} Å."
    )


def _facts(summary: dict) -> list[Fact]:
    total, offset, grade = summary["shells"][-1], summary["index_offset"], partial(grade_of, summary)
    known = [
        (abs(m), m, e, letter) for m, e, letter in zip(offset["mean"], offset["esd"], OFFSET_LETTERS) if m is not None
    ]
    largest = max(known, default=None)
    return [
        Fact(
            "completeness",
            number(total["completeness"], ".1%"),
            f"{number(total['pixels'], '.1f')} pixels a voxel",
            grade("completeness"),
        ),
        Fact(
            "CC1/2",
            number(total["cc_half"], ".3f"),
            "of the anisotropic part, between halves of the data",
            grade("cc_half"),
        ),
        Fact(
            "CC_Laue",
            number(total["cc_laue"], ".3f"),
            f"with {number(total['equivalents'], '.1f')} observed equivalents a voxel",
            grade("cc_laue"),
        ),
        Fact(
            "χ² against Poisson", number(total["chi_sq"], ".2f"), "1 where noise is all that differs", grade("chi_sq")
        ),
        Fact(
            "index offset",
            NO_NUMBER if largest is None else f"{largest[1]:+.3f} ± {number(largest[2], '.3f')}",
            f"the largest, along {largest[3]}; {offset['n_spots']} strong spots" if largest else "no strong spots",
            grade("index_offset"),
        ),
        Fact(
            "azimuthal residual",
            f"{number(total['cos_2phi'], '+.3f')}",
            f"cos 2φ; sin 2φ {number(total['sin_2phi'], '+.3f')}; 0 where polarisation is right",
            grade("azimuthal"),
        ),
        Fact(
            "masked as Bragg",
            number(summary["masked"], ".1%"),
            f"{number(summary['rejected'], '.2%')} rejected",
            grade("masked"),
        ),
    ]


def _planes(sections: Sequence[MapSection], kind: str, unit: str) -> Section:
    title = f"Planes, {NAMES[kind]}"
    if not sections:
        return Section(title, ["No plane was asked for (planes=)."])
    low, high = pictures.TOTAL_PERCENTILES
    text = {
        "intensity": "A pixel is a voxel, on the true axes of the reciprocal lattice; dashed circles are resolutions. "
        f"Grey was not observed, or is masked. Colours reach from percentile {low:g} to {high:g} of the plane; what is "
        "beyond has the last colour.",
        "anisotropic": "What is left without the isotropic part: white is zero, red more, blue less. Colours reach to "
        f"percentile {pictures.ANISOTROPIC_PERCENTILE:g} of the absolute values, equally far to both sides.",
    }[kind]
    return Section(title, [text], [show_plane(section, kind, unit) for section in sections])


def show_plane(section: MapSection, kind: str, unit: str) -> Figure:
    """The picture of a plane: the intensity in sequential, its anisotropic part in diverging colours."""
    values, inside = section.values[kind], section.inside()
    low, high = section.limits
    radius = (high**2 - section.height**2) ** 0.5
    total = kind == "intensity"
    colours = pictures.sequential(values) if total else pictures.diverging(values)
    units = "" if section.frame == "hkl" else " (1/Å)"
    axes = pictures.PlaneAxes(
        section.u,
        section.v,
        section.matrix,
        section.origin,
        radius,
        section.height,
        labels=tuple(letter + units for letter in section.letters),
        circles=pictures.round_resolutions(high, max(low, abs(section.height))),
        limits=[1.0 / s for s in (low, high) if s > 0.0],
    )
    name, title = f"plane-{section.name.replace('.', '-')}-{kind}", f"{section.name}, {NAMES[kind]}"
    bar = pictures.ColourBar(colours, kind, unit)
    svg = pictures.picture(name, title, values, inside, axes, bar, f"Nothing of {section.name} was observed.")
    known, possible = np.count_nonzero(np.isfinite(values)), np.count_nonzero(inside)
    caption = (
        f"{section.name} ({section.position}), {NAMES[kind]}; {known / max(possible, 1):.0%} of it was observed. "
        f"{section.note}"
    )
    return Figure(svg, caption.strip())


def _by_resolution(summary: dict) -> Section:
    shells = summary["shells"][:-1]
    figures = [
        _radial(summary["radial"], summary["settings"]["radial_offset"], _unit(summary)),
        *_agreement_figures(shells),
        *_noise_figures(shells),
    ]
    factor, power = pictures.power_of(max((shell["mean"] or 0.0 for shell in summary["shells"]), default=0.0))
    rows = [
        [
            f"{number(shell['d_max'], '.2f')} to {shell['d_min']:.2f}",
            str(shell["n"]),
            *(number(shell[key], pattern, factor if key in ("mean", "sigma") else 1.0) for key, _, pattern in COLUMNS),
        ]
        for shell in summary["shells"]
    ]
    headers = ["d (Å)", "voxels", *(header for _, header, _ in COLUMNS)]
    caption = (
        "Statistics by shell, of unique voxels; the last row is all shells together. Pixels and observed equivalents "
        f"of a voxel; mean and sigma in {power}{_unit(summary)}; aniso/σ: rms of the anisotropic part, less its noise, "
        "over sigma; masked: of the pixels."
    )
    return Section(
        "By resolution", figures=figures, tables=[Table(caption, headers, rows), _offset(summary["index_offset"])]
    )


def _agreement_figures(shells: list[dict]) -> list[Figure]:
    """How well the data agree, by resolution."""
    limits = [
        Curve("±0.02", [], [AZIMUTHAL] * len(shells), GREY, "--"),
        Curve("_", [], [-AZIMUTHAL] * len(shells), GREY, "--"),
    ]
    azimuthal = [shell[key] or 0.0 for shell in shells for key in ("cos_2phi", "sin_2phi")]
    reach = 1.1 * max(1.5 * AZIMUTHAL, *(abs(value) for value in azimuthal))
    return [
        _by_shell(
            shells,
            (
                "correlations",
                "Correlations by resolution",
                "correlation",
                "Of the anisotropic part, so that no water ring makes them good. CC1/2: between half sets of the "
                "averaged map. CC_Laue: of a voxel with the mean of its symmetry equivalents, each with the noise of "
                "one voxel.",
            ),
            (("cc_half", "CC1/2"), ("cc_laue", "CC_Laue"), ("cc_friedel", "CC_Friedel")),
            ylim=(None, 1.03),
        ),
        _by_shell(
            shells,
            (
                "azimuthal",
                "Azimuthal residual by resolution",
                "part of the intensity",
                "How the intensity varies with the azimuth on the detector after all corrections. Polarisation that is "
                "wrong grows as cos 2φ to high angles. Good: within 0.02; few images leave more at low resolution.",
            ),
            (("cos_2phi", "cos 2φ"), ("sin_2phi", "sin 2φ")),
            limits,
            ylim=(-reach, reach),
        ),
    ]


def _noise_figures(shells: list[dict]) -> list[Figure]:
    """Noise, signal and completeness, by resolution."""
    return [
        _by_shell(
            shells,
            (
                "chi-sq",
                "Chi squared by resolution",
                "χ² per degree of freedom",
                "Pixels of a voxel against Poisson's law: 1 where they differ by noise alone, more where the intensity "
                "changes within voxels, masks leave Bragg peaks, or the gain is too small.",
            ),
            (("chi_sq", "χ²"),),
            ylim=(0.0, max(1.5, *(1.1 * (shell["chi_sq"] or 0.0) for shell in shells))),
        ),
        _by_shell(
            shells,
            (
                "anisotropy",
                "Anisotropic part over sigma by resolution",
                "rms anisotropic / sigma",
                "The root mean square of the anisotropic part, less that of noise, over the noise of a voxel. Where it "
                "is far below 1, larger voxels show more.",
            ),
            (("anisotropy", "rms anisotropic/sigma"),),
            ylim=(0.0, None),
        ),
        _by_shell(
            shells,
            (
                "completeness",
                "Completeness and masked part by resolution",
                "fraction",
                "Unique voxels that were observed, of all that there are, and pixels that belong to Bragg peaks.",
            ),
            (("completeness", "completeness"), ("masked", "masked as Bragg")),
            ylim=(0.0, 1.05),
        ),
    ]


def _by_shell(
    shells: list[dict], texts: tuple[str, str, str, str], keys: Sequence[tuple[str, str]], more=(), **limits
) -> Figure:
    """Curves of the shells' keys with their labels, and more of them; texts: name, title, label of y and caption."""
    name, title, y_label, caption = texts
    styles = ((BLUE, "o-"), (RED, "^--"), (GREEN, "s:"))
    curves = [
        Curve(label, [], [shell[key] for shell in shells], colour, style)
        for (key, label), (colour, style) in zip(keys, styles)
    ]
    curves += more
    return Figure(plots.by_resolution(name, title, shells, curves, y_label, "There are no data.", **limits), caption)


def _radial(radial: dict, with_offset: bool, unit: str) -> Figure:
    factor, power = pictures.power_of(max(radial["intensity"], default=0.0))

    def scaled(key):
        return [factor * value for value in radial[key]]

    curves = [Curve("isotropic part", radial["s"], scaled("intensity"), BLUE, "-", scaled("sigma"))]
    if with_offset:
        curves.append(Curve("taken off each image, on average", radial["s"], scaled("offset"), GREY, "--"))
    label = f"intensity ({power}{unit})"
    svg = plots.lines("radial", "Radial profile", curves, "1/d (1/Å)", label, ylim=(0.0, None))
    caption = (
        "The isotropic part of the map by narrow shells, which the anisotropic part is without: scattering of water, "
        "air and mount besides that of the crystal. Sharp rings are ice or powder: mask.ice_rings.filter=True."
    )
    return Figure(svg, caption)


def _offset(offset: dict) -> Table:
    rows = [
        [
            letter,
            number(mean, "+.4f"),
            number(esd, ".4f"),
            number(None if mean is None or not esd else mean / esd, "+.1f"),
        ]
        for letter, mean, esd in zip(OFFSET_LETTERS, offset["mean"], offset["esd"])
    ]
    caption = (
        f"Mean fractional index of {offset['n_spots']} strong spots, less the nearest integer. Good: zero within the "
        "esd; by anything else the whole map is shifted."
    )
    return Table(caption, ("", "offset", "esd", "offset/esd"), rows)


def _images(summary: dict) -> Section:
    images = summary["images"]
    key = "level" if summary["settings"]["scale"] == "none" else "scale"
    names = list(dict.fromkeys(image["series"] for image in images))
    if len(names) <= len(SERIES_COLOURS) and len(images) > len(names):
        curves, x_label = [], "image"
        for name, colour in zip(names, SERIES_COLOURS):
            chosen = [image for image in images if image["series"] == name]
            label = name if len(names) > 1 else key
            curves.append(Curve(label, [i["number"] for i in chosen], [i[key] for i in chosen], colour, "o-"))
    else:
        count = list(range(1, len(images) + 1))
        curves, x_label = [Curve(key, count, [image[key] for image in images], BLUE, "o")], "image, in order"
    x = [place for curve in curves for place in curve.x]
    ticks = pictures.integer_ticks(min(x, default=0), max(x, default=1))
    svg = plots.lines(
        "scales", f"{key.capitalize()} by image", curves, x_label, f"{key} / mean", ylim=(0.0, None), xticks=ticks
    )
    caption = (
        "The mean isotropic level of each image, which was not made the same (scale.model=none)."
        if key == "level"
        else "What each image was divided by, relative to the mean: beam, volume of crystal in it, absorption. It "
        "should be smooth; a jump is an accident."
    )
    skipped = [image for image in images if image["error"] is not None]
    tables = []
    if skipped:
        rows = [[image["series"], str(image["number"]), image["error"]] for image in skipped]
        tables.append(
            Table("Images that were not used.", ("series", "image", "reason"), rows, n_text=3, long=len(rows) > 20)
        )
    rows = [
        [
            image["series"],
            str(image["number"]),
            number(image["scale"], ".3f"),
            number(image["level"], ".3f"),
            str(image["n_pixels"]),
            number(image["masked"], ".1%"),
            str(image["n_rejected"]),
            str(image["n_spots"]),
        ]
        for image in images
    ]
    headers = ("series", "image", "scale", "level", "pixels", "masked", "rejected", "strong spots")
    everything = Table(
        "All images; scale and level relative to their means; a click on a header sorts.",
        headers,
        rows,
        sortable=True,
        long=True,
        flagged=frozenset(i for i, image in enumerate(images) if image["error"] is not None),
    )
    return Section("Images", figures=[Figure(svg, caption)], tables=[*tables, everything])


def _dataset(summary: dict) -> Section:
    dataset, grid, settings = summary["dataset"], summary["grid"], summary["settings"]
    a, b, c, *angles = dataset["unit_cell"]
    size = (
        f"{grid['spacing']:g} 1/Å, Cartesian"
        if grid["subdivide"] is None
        else f"{' × '.join(f'1/{n}' for n in grid['subdivide'])} of an index"
    )
    made, beyond = dataset["corrections"], dataset["rejected_beyond"]
    if made is None:  # maps of an earlier version do not say
        made = {key: "all" for key, wanted in settings["corrections"].items() if wanted}
    made = [CORRECTIONS[key] + " of some series" * (which == "some") for key, which in made.items()]
    rotation = f"at most {dataset['oscillation']:g}° an image" if dataset["oscillation"] else "stills"
    rows = [
        ["files", ", ".join(dataset["files"])],
        ["space group", f"{dataset['space_group']}, Laue class {dataset['laue_class']}"],
        ["unit cell", f"{a:.2f}, {b:.2f}, {c:.2f} Å; {', '.join(f'{x:.2f}' for x in angles)}°"],
        ["wavelength", f"{dataset['wavelength']:.5f} Å"],
        ["rotation", f"{rotation}, in {dataset['phi_steps']} step{'s' * (dataset['phi_steps'] > 1)}"],
        ["symmetry", f"{dataset['symmetry']}, {grid['n_operations']} operations"],
        ["voxels", f"{grid['n_voxels']} of {size}, {' × '.join(map(str, grid['shape']))} about them"],
        ["resolution", f"{number(grid['d_max'], '.2f')} to {grid['d_min']:.2f} Å"],
        ["memory of the sums", f"{grid['memory'] / 2**20:.1f} MiB"],
        ["Bragg mask", dataset["mask"]],
        ["corrections", ", ".join(made) or "none"],
        ["polarisation fraction", number(dataset["polarization_fraction"], ".3f")],
        ["background", dataset["background"] or "none taken off"],
        ["isotropic part of each image", "taken off before averaging" if settings["radial_offset"] else "left in"],
        ["scales", ", ".join([SCALES[settings["scale"]], *dataset["scaled_by"]])],
        ["outliers", f"beyond {beyond:.3g} sigma rejected" if beyond else "not rejected"],
        ["half sets", settings["half_sets"]],
    ]
    tables = [Table("What was read, and how it was treated.", ("", ""), rows, n_text=2)]
    if summary["not_used"]:
        left_out = [[reason, ", ".join(what)] for reason, what in summary["not_used"].items()]
        tables.append(Table("What was not used.", ("reason", "what"), left_out, n_text=2))
    return Section("Data set", tables=tables)
