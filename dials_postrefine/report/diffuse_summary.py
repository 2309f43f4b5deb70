"""
The JSON summary of dials.diffuse_map: the numbers of its log and of its page, which is made from it (diffuse.py).

Lengths in Angstrom, angles in degrees, intensities in the units of the map; a number that does not exist is null.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np

from dials_postrefine.diffuse.grid import MOST_SWEPT
from dials_postrefine.diffuse.mapping import ImageResult
from dials_postrefine.diffuse.merging import Map, index_offset
from dials_postrefine.report.summary import finite

# What is worth a remark.  An index offset: three esds, and more than this.
OFFSET_ESDS, OFFSET = 3.0, 0.01
AZIMUTHAL = 0.02
CHI_SQ_RANGE = (0.8, 1.25)
# CC_Laue so far below what CC1/2 lets expect.
CC_SHORT = 0.15
INCOMPLETE = 0.8
MUCH_MASKED = 0.1
MUCH_REJECTED = 0.01
# From one image to the next a scale jumps where it changes by more than this, and by so many times the usual change.
JUMP, JUMP_RATIO = 0.1, 5.0
MOST_LISTED = 5
OFFSET_LETTERS = "hkl"


def describe_dataset(
    *,
    files: Sequence[str],
    space_group: str,
    laue_class: str,
    symmetry: str,
    unit_cell: Sequence[float],
    wavelength: float,
    oscillation: float,
    phi_steps: int,
    mask: str,
    polarization_fraction: float | None,
    background: str | None = None,
    rejected_beyond: float | None = None,
) -> dict:
    """
    What the data set is, and what was done that the map does not know, as plain numbers and text.

    symmetry: laue, friedel or p1; oscillation: the widest of an image (degrees, 0 for stills), followed in phi_steps;
    mask and background: a few words on how Bragg peaks and background were taken out; rejected_beyond: from how many
    sigma on pixels were rejected, None: not.
    """
    return {
        "files": [str(name) for name in files],
        "space_group": space_group,
        "laue_class": laue_class,
        "symmetry": symmetry,
        "unit_cell": [float(x) for x in unit_cell],
        "wavelength": float(wavelength),
        "oscillation": float(oscillation),
        "phi_steps": int(phi_steps),
        "mask": mask,
        "polarization_fraction": None if polarization_fraction is None else float(polarization_fraction),
        "background": background,
        "rejected_beyond": rejected_beyond,
    }


def make_summary(
    found: Map,
    images: Sequence[ImageResult],
    names: Sequence[str],
    not_used: Mapping[str, Sequence[str]],
    dataset: dict,
) -> dict:
    """
    The summary as plain numbers and text; names of the series; not_used: reason -> what was left out (experiments,
    files); dataset as describe_dataset has it.
    """
    grid, settings, radial = found.grid, found.settings, found.radial
    used = [image for image in images if image.error is None]
    n, offset, offset_esd = index_offset(list(images))
    summary = finite(
        {
            "dataset": dataset,
            "not_used": {reason: list(what) for reason, what in not_used.items()},
            "settings": asdict(settings),
            "grid": {
                "frame": grid.frame,
                "subdivide": grid.subdivide,
                "spacing": grid.spacing,
                "d_max": grid.d_max,
                "d_min": grid.d_min,
                "shape": grid.shape,
                "n_voxels": grid.n_voxels,
                "memory": found.sums.nbytes,
                "n_operations": len(found.operations),
            },
            "level": found.level,
            "shells": [asdict(shell) for shell in found.shells],
            "radial": {
                "s": radial.s.tolist(),
                "intensity": radial.intensity.tolist(),
                "sigma": radial.sigma.tolist(),
                "offset": radial.offset_at(radial.s).tolist(),
                "n": radial.n.tolist(),
            },
            "index_offset": {"n_spots": n, "mean": offset.tolist(), "esd": offset_esd.tolist()},
            "n_images": len(images),
            "n_images_used": len(used),
            "masked": _part(sum(image.n_bragg for image in used), sum(image.n_inside for image in used)),
            "rejected": _part(sum(image.n_rejected for image in used), sum(image.n_inside for image in used)),
            "sweep": grid.voxels_swept(dataset["oscillation"] / dataset["phi_steps"]),
            "series": list(names),
            "images": list_images(images, names),
        }
    )
    summary["remarks"] = remarks(summary)
    return summary


def list_images(images: Sequence[ImageResult], names: Sequence[str]) -> list[dict]:
    """What is reported of each image; scale and level relative to the mean of those that were used."""
    used = [image for image in images if image.error is None]
    scale = np.mean([image.scale for image in used]) if used else np.nan
    level = np.mean([image.level for image in used]) if used else np.nan
    return [
        {
            "series": names[image.series],
            "number": image.number,
            "scale": image.scale / scale if image.error is None else None,
            "level": image.level / level if image.error is None else None,
            "n_pixels": image.n_inside,
            "masked": _part(image.n_bragg, image.n_inside),
            "n_rejected": image.n_rejected,
            "n_spots": image.n_spots,
            "error": image.error,
        }
        for image in images
    ]


def expected_cc_laue(cc_half: float, mates: float) -> float:
    """
    The correlation of a voxel with the mean of its mates that CC1/2 lets expect, where they differ by noise alone.

    With v the ratio of variances of signal and noise of one voxel, halves of m / 2 mates have CC1/2 = r(m / 2) where
    r(n) = n v / (1 + n v), and one against the mean of m - 1 correlates with sqrt(r(1) r(m - 1)).
    """
    ratio = cc_half / max(1e-6, 1.0 - cc_half) / (0.5 * mates)
    one, others = (n * ratio / (1.0 + n * ratio) for n in (1.0, mates - 1.0))
    return math.sqrt(one * others)


def remarks(summary: dict) -> list[str]:
    """What somebody who knows would point at, each a sentence with what to do; the summary as it is written."""
    found = [
        *_on_images(summary),
        *_on_geometry(summary),
        *_on_statistics(summary),
    ]
    if summary["not_used"]:
        reasons = "; ".join(f"{reason} ({len(what)})" for reason, what in summary["not_used"].items())
        found.append(f"Not everything that was given was used: {reasons}.")
    return found


def _on_images(summary: dict) -> list[str]:
    found = []
    n = summary["n_images"] - summary["n_images_used"]
    if n:
        names = _listed([f"{image['number']}" for image in summary["images"] if image["error"] is not None])
        found.append(
            f"{n} of {summary['n_images']} images could not be used ({names}): look at the reasons in their "
            "table, and fetch the files again if they are damaged."
        )
    key = "level" if summary["settings"]["scale"] in ("none", "from_refl") else "scale"
    jumps = scale_jumps(summary["images"], key)
    if jumps:
        advice = (
            "use scale.model=per_image, or leave images out by image_range="
            if key == "level"
            else "look whether beam or crystal changed there, and leave images out by image_range= if they did"
        )
        found.append(f"The {key} of the images jumps at {_listed(jumps)}: {advice}.")
    if summary["rejected"] is not None and summary["rejected"] > MUCH_REJECTED:
        found.append(
            f"{summary['rejected']:.1%} of the pixels were rejected as outliers: too many for accidents; raise "
            "reject.n_sigma, mask Bragg peaks more generously, or use smaller voxels."
        )
    return found


def _on_geometry(summary: dict) -> list[str]:
    found = []
    offset = summary["index_offset"]
    off = [
        f"{letter} {mean:+.3f} ± {esd:.3f}"
        for letter, mean, esd in zip(OFFSET_LETTERS, offset["mean"], offset["esd"])
        if mean is not None and esd is not None and abs(mean) > max(OFFSET, OFFSET_ESDS * esd)
    ]
    if off:
        found.append(
            f"Strong spots are off the integer indices on average ({', '.join(off)}): beam centre, distance or cell "
            "are off, or the crystal slipped; refine again (dials.refine scan_varying=True)."
        )
    elif not offset["n_spots"]:
        found.append(
            "No image has a strong spot, so that nothing tells whether indices are right: check the models with "
            "dials.image_viewer."
        )
    sweep = summary["sweep"]
    if sweep > MOST_SWEPT:
        steps = math.ceil(summary["dataset"]["phi_steps"] * sweep / MOST_SWEPT)
        found.append(
            f"An image sweeps up to {sweep:.1f} voxels in a step of its rotation: intensity is spread along its way; "
            f"sampling.phi_steps={steps} follows it, or use larger voxels."
        )
    shells, total = summary["shells"][:-1], summary["shells"][-1]
    if _beyond(total, AZIMUTHAL):
        worst = max(shells, key=_azimuthal)
        found.append(
            f"The intensity varies with the azimuth on the detector (cos 2φ {_signed(total['cos_2phi'])}, sin 2φ "
            f"{_signed(total['sin_2phi'])}, most at {worst['d_min']:.2f} Å): check polarization_fraction and the "
            "polarisation normal of the beam, shadows and background."
        )
    return found


def _on_statistics(summary: dict) -> list[str]:
    found, total = [], summary["shells"][-1]
    chi_sq = total["chi_sq"]
    if chi_sq is not None and chi_sq > CHI_SQ_RANGE[1]:
        found.append(
            f"χ² against Poisson's law is {chi_sq:.2f}: pixels of a voxel differ by more than their noise; check gain, "
            "masks and scales, or use smaller voxels where the intensity changes within them."
        )
    elif chi_sq is not None and chi_sq < CHI_SQ_RANGE[0]:
        found.append(
            f"χ² against Poisson's law is {chi_sq:.2f}: pixels of a voxel differ by less than their noise; the gain is "
            "larger than 1, or neighbouring pixels share their photons: set gain=."
        )
    cc_half, cc_laue, mates = total["cc_half"], total["cc_laue"], total["mates"]
    if cc_half is not None and cc_laue is not None and cc_half > 0.0 and mates > 1.5:
        expected = expected_cc_laue(cc_half, mates)
        if cc_laue < expected - CC_SHORT:
            found.append(
                f"CC_Laue is {cc_laue:.2f} where CC1/2 of {cc_half:.2f} lets expect {expected:.2f}: symmetry mates "
                "differ by more than noise; check space group, corrections, background and absorption, or use "
                "symmetry=friedel."
            )
    if cc_half is None and summary["n_images_used"] > 1 and summary["settings"]["half_sets"] != "friedel":
        found.append(
            "There is no CC1/2, as few voxels were seen by both halves of the images: give more images, or try "
            "half_sets=random, which halves them in another way."
        )
    completeness = total["completeness"]
    if completeness is not None and completeness < INCOMPLETE:
        found.append(
            f"{completeness:.0%} of the map was observed: the rest is grey in the pictures; more images, another "
            "orientation of the crystal, or a larger d_min= make it more."
        )
    if summary["masked"] is not None and summary["masked"] > MUCH_MASKED:
        found.append(
            f"{summary['masked']:.0%} of the pixels are masked as Bragg peaks: with mask.n_sigma or mask.box smaller "
            "more of the map is left."
        )
    return found


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


def _beyond(shell: dict, limit: float) -> bool:
    return _azimuthal(shell) > limit


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.3f}"


def _listed(names: Sequence[str]) -> str:
    """The first few names, and how many there are."""
    more = f" and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
    return "image " * (len(names) == 1) + "images " * (len(names) > 1) + ", ".join(names[:MOST_LISTED]) + more


def _part(n: int, of: int) -> float | None:
    return n / of if of else None
