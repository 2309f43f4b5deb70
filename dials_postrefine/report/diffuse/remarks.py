"""
The remarks of dials.diffuse_map: what somebody who knows would point at in its summary (remarks.py says what they are).

Each statement of the page that something is good, or should be so and so, is checked here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from dials_postrefine.diffuse.map.grid import MOST_SWEPT
from dials_postrefine.report.common.remarks import Remark, care, distrust, note
from dials_postrefine.report.diffuse.summary import OFFSET_LETTERS

# An index offset: three esds; more than this, or it is small.
OFFSET_ESDS, OFFSET = 3.0, 0.01
AZIMUTHAL = 0.02
CHI_SQ_RANGE = (0.8, 1.25)
CHI_SQ_WRONG = 10.0
CC_HALF_LITTLE = 0.3
CC_SHORT = 0.15  # CC_Laue below what CC1/2 lets expect
NEGATIVE_ESDS, FEWEST_VOXELS = 4.0, 30  # of a correlation below zero
WEAK = 0.1  # rms of the anisotropic part over the noise of a voxel
INCOMPLETE = 0.8
MUCH_MASKED = 0.1
MUCH_REJECTED, MOST_REJECTED = 0.01, 0.1
# From one image to the next a scale jumps where it changes by more than this, and by so many times the usual change.
JUMP, JUMP_RATIO = 0.1, 5.0
# A ring: a shell above the line through its neighbours by this part of it, so many sigma, and so many times the scatter
# of the neighbours about the line.
RING, RING_SIGMAS, NEIGHBOURS = 0.15, 5.0, 5
MOST_LISTED = 5


def remarks(summary: dict) -> list[Remark]:
    """The remarks on a summary (summary.make_summary)."""
    return [*_on_input(summary), *_on_images(summary), *_on_geometry(summary), *_on_statistics(summary)]


def _on_input(summary: dict) -> Iterator[Remark]:
    if summary["not_used"]:
        reasons = "; ".join(f"{reason} ({len(what)})" for reason, what in summary["not_used"].items())
        yield note(f"Not everything that was given was used: {reasons}.")


def _on_images(summary: dict) -> Iterator[Remark]:
    n = summary["n_images"] - summary["n_images_used"]
    if n:
        names = _listed([f"{image['number']}" for image in summary["images"] if image["error"] is not None])
        yield care(
            f"{n} of {summary['n_images']} images were not used",
            f"{n} of {summary['n_images']} images could not be used ({names}): look at the reasons in their "
            "table, and fetch the files again if they are damaged.",
        )
    key = "level" if summary["settings"]["scale"] in ("none", "from_refl") else "scale"
    jumps = scale_jumps(summary["images"], key)
    if jumps:
        advice = (
            "use scale.model=per_image, or leave images out by image_range="
            if key == "level"
            else "look whether beam or crystal changed there, and leave images out by image_range= if they did"
        )
        yield care(f"the {key} of images jumps", f"The {key} of the images jumps at {_listed(jumps)}: {advice}.")
    rejected = summary["rejected"]
    if rejected is not None and rejected > MUCH_REJECTED:
        grade = distrust if rejected > MOST_REJECTED else care
        yield grade(
            f"{rejected:.1%} of the pixels were rejected",
            f"{rejected:.1%} of the pixels were rejected as outliers: too many for accidents; raise reject.n_sigma, "
            "mask Bragg peaks more generously, or use smaller voxels.",
            "masked",
        )


def _on_geometry(summary: dict) -> Iterator[Remark]:
    offset = summary["index_offset"]
    off = [
        (f"{letter} {mean:+.4f} ± {esd:.4f}", abs(mean) > OFFSET)
        for letter, mean, esd in zip(OFFSET_LETTERS, offset["mean"], offset["esd"])
        if mean is not None and esd is not None and abs(mean) > OFFSET_ESDS * esd
    ]
    named = ", ".join(text for text, _ in off)
    if any(large for _, large in off):
        yield care(
            "strong spots are off the integer indices",
            f"Strong spots are off the integer indices on average ({named}): beam centre, distance or cell "
            "are off, or the crystal slipped; refine again (dials.refine scan_varying=True).",
            "index_offset",
        )
    elif off:
        yield note(
            f"Strong spots are off the integer indices on average, by more than {OFFSET_ESDS:g} esds but less than "
            f"{OFFSET:g} ({named}): the map is shifted by so much."
        )
    elif not offset["n_spots"]:
        yield care(
            "no strong spots tell whether indices are right",
            "No image has a strong spot, so that nothing tells whether indices are right: check the models with "
            "dials.image_viewer.",
            "index_offset",
        )
    sweep = summary["sweep"]
    if sweep > MOST_SWEPT:
        steps = math.ceil(summary["dataset"]["phi_steps"] * sweep / MOST_SWEPT)
        yield care(
            f"an image sweeps {sweep:.1f} voxels",
            f"An image sweeps up to {sweep:.1f} voxels in a step of its rotation: intensity is spread along its way; "
            f"sampling.phi_steps={steps} follows it, or use larger voxels.",
        )
    shells, total = summary["shells"][:-1], summary["shells"][-1]
    if _azimuthal(total) > AZIMUTHAL:
        worst = max(shells, key=_azimuthal)
        yield care(
            "intensity varies with the azimuth",
            f"The intensity varies with the azimuth on the detector (cos 2φ {_signed(total['cos_2phi'])}, sin 2φ "
            f"{_signed(total['sin_2phi'])}, most at {worst['d_min']:.2f} Å): check polarization_fraction and the "
            "polarisation normal of the beam, shadows and background.",
            "azimuthal",
        )
    rings = sharp_rings(summary["radial"])
    if rings:
        yield care(
            "sharp rings",
            f"The radial profile has sharp rings at {', '.join(f'{d:.2f}' for d in rings[:MOST_LISTED])} Å: ice or "
            "powder; mask.ice_rings.filter=True leaves those of ice out.",
        )


def _on_statistics(summary: dict) -> Iterator[Remark]:
    total = summary["shells"][-1]
    chi_sq = total["chi_sq"]
    if chi_sq is not None and chi_sq > CHI_SQ_RANGE[1]:
        grade = distrust if chi_sq > CHI_SQ_WRONG else care
        yield grade(
            f"χ² is {chi_sq:.2f}",
            f"χ² against Poisson's law is {chi_sq:.2f}: pixels of a voxel differ by more than their noise; check gain, "
            "masks and scales, or use smaller voxels where the intensity changes within them.",
            "chi_sq",
        )
    elif chi_sq is not None and chi_sq < CHI_SQ_RANGE[0]:
        yield care(
            f"χ² is {chi_sq:.2f}",
            f"χ² against Poisson's law is {chi_sq:.2f}: pixels of a voxel differ by less than their noise; the gain is "
            "larger than 1, or neighbouring pixels share their photons: set gain=.",
            "chi_sq",
        )
    yield from _on_correlations(summary)
    completeness = total["completeness"]
    if completeness is not None and completeness < INCOMPLETE:
        yield care(
            f"{completeness:.0%} of the map was observed",
            f"{completeness:.0%} of the map was observed: the rest is grey in the pictures; more images, another "
            "orientation of the crystal, or a larger d_min= make it more.",
            "completeness",
        )
    if summary["masked"] is not None and summary["masked"] > MUCH_MASKED:
        yield note(
            f"{summary['masked']:.0%} of the pixels are masked as Bragg peaks: with mask.n_sigma or mask.box smaller "
            "more of the map is left."
        )


def _on_correlations(summary: dict) -> Iterator[Remark]:
    """What CC1/2, CC_Laue and the size of the anisotropic part say."""
    shells, total = summary["shells"][:-1], summary["shells"][-1]
    cc_half, cc_laue, n_equivalent = total["cc_half"], total["cc_laue"], total["equivalents"]
    if cc_half is None:
        if summary["n_images_used"] > 1 and summary["settings"]["half_sets"] != "friedel":
            yield care(
                "there is no CC1/2",
                "There is no CC1/2, as few voxels were seen by both halves of the images: give more images, or try "
                "half_sets=random, which halves them in another way.",
                "cc_half",
            )
    elif cc_half < CC_HALF_LITTLE:
        grade, little = (distrust, "nothing") if cc_half <= 0.0 else (care, "little")
        yield grade(
            f"CC1/2 is {cc_half:.2f}",
            f"CC1/2 of the anisotropic part is {cc_half:.2f}: {little} of it is reproducible; more images or larger "
            "voxels are needed.",
            "cc_half",
        )
    weak = total["anisotropy"]
    if weak is not None and weak < WEAK:
        yield note(
            f"The anisotropic part is {weak:.2f} of the noise of a voxel: larger voxels (grid.subdivide=, "
            "grid.spacing=) show more."
        )
    if cc_laue is None:
        return
    if total["n"] >= FEWEST_VOXELS and cc_laue < -NEGATIVE_ESDS / math.sqrt(total["n"]):
        yield distrust(
            f"CC_Laue is {cc_laue:.2f}",
            f"CC_Laue is {cc_laue:.2f}: symmetry equivalents contradict one another; space group or indexing are "
            "wrong, or one part of the images outweighs all others; try symmetry=p1.",
            "cc_laue",
        )
        return
    comparable = cc_half is not None and cc_half > 0.0 and n_equivalent > 1.5
    expected = expected_cc_laue(cc_half, n_equivalent) if comparable else None
    if expected is not None and cc_laue < expected - CC_SHORT:
        yield care(
            f"CC_Laue is {cc_laue:.2f}, not {expected:.2f}",
            f"CC_Laue is {cc_laue:.2f} where CC1/2 of {cc_half:.2f} lets expect {expected:.2f}: symmetry equivalents "
            "differ by more than noise; check space group, corrections, background and absorption, or use "
            "symmetry=friedel.",
            "cc_laue",
        )
    negative = [
        shell["d_min"]
        for shell in shells
        if shell["cc_laue"] is not None
        and shell["n"] >= FEWEST_VOXELS
        and shell["cc_laue"] < -NEGATIVE_ESDS / math.sqrt(shell["n"])
    ]
    if negative:
        yield care(
            f"CC_Laue is negative at {negative[0]:.2f} Å",
            f"CC_Laue is negative in the shells to {', '.join(f'{d:.2f}' for d in negative[:MOST_LISTED])} Å: there "
            "symmetry equivalents contradict one another, as where the shadow of the beam stop or its halo is averaged "
            "in; mask it, or set d_max=.",
        )


def expected_cc_laue(cc_half: float, n_equivalent: float) -> float:
    """
    The correlation of a voxel with the mean of its symmetry equivalents that CC1/2 lets expect, where they differ by
    noise alone.

    With v the ratio of variances of signal and noise of one voxel, halves of m / 2 equivalents have CC1/2 = r(m / 2)
    where r(n) = n v / (1 + n v), and one against the mean of m - 1 correlates with sqrt(r(1) r(m - 1)).
    """
    ratio = cc_half / max(1e-6, 1.0 - cc_half) / (0.5 * n_equivalent)
    one, others = (n * ratio / (1.0 + n * ratio) for n in (1.0, n_equivalent - 1.0))
    return math.sqrt(one * others)


def sharp_rings(radial: dict) -> list[float]:
    """The d (Angstrom) of shells of a radial profile that stand out from their neighbours, strongest first."""
    s, intensity, sigma = (
        np.array([np.nan if x is None else x for x in radial[key]], dtype=float) for key in ("s", "intensity", "sigma")
    )
    found = []
    apart = np.setdiff1d(np.arange(-NEIGHBOURS, NEIGHBOURS + 1), (-1, 0, 1))  # the shells beside it have part of a ring
    for i in range(NEIGHBOURS, len(s) - NEIGHBOURS):
        near = intensity[i + apart]
        if not np.isfinite([*near, intensity[i]]).all() or intensity[i] < intensity[i - 1 : i + 2].max():
            continue
        slope, usual = np.polyfit(apart, near, 1)
        scatter = np.std(near - slope * apart - usual, ddof=2)
        above = intensity[i] - usual
        if usual > 0.0 and above > max(RING * usual, RING_SIGMAS * sigma[i], RING_SIGMAS * scatter):
            found.append((above / usual, 1.0 / s[i]))
    return [float(d) for _, d in sorted(found, reverse=True)]


def scale_jumps(images: Sequence[dict], key: str) -> list[str]:
    """The images whose scale (or level) is far from that of the image before, by number."""
    pairs = [
        (second["number"], abs(math.log(second[key] / first[key])))
        for first, second in zip(images, images[1:])
        if first["series"] == second["series"]
        and second["number"] - first["number"] == 1
        and (first[key] or 0.0) > 0.0
        and (second[key] or 0.0) > 0.0
    ]
    usual = float(np.median([change for _, change in pairs])) if pairs else 0.0
    return [f"{number}" for number, change in pairs if change > max(math.log1p(JUMP), JUMP_RATIO * usual)]


def _azimuthal(shell: dict) -> float:
    return max(abs(shell["cos_2phi"] or 0.0), abs(shell["sin_2phi"] or 0.0))


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.3f}"


def _listed(names: Sequence[str]) -> str:
    """The first few names, and how many there are."""
    more = f" and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
    return "image " * (len(names) == 1) + "images " * (len(names) > 1) + ", ".join(names[:MOST_LISTED]) + more
