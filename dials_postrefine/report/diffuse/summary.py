"""
The JSON summary of dials.diffuse_map: the numbers of its log and of its page, which is made from it (page.py).

Lengths in Angstrom, angles in degrees, intensities in the units of the map; a number that does not exist is null.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np

from dials_postrefine.diffuse.map.diagnosis import Diagnosis
from dials_postrefine.diffuse.map.merging import Map, index_offset
from dials_postrefine.diffuse.map.records import Description, ImageResult
from dials_postrefine.report.common.summary import finite

OFFSET_LETTERS = "hkl"


def describe_dataset(description: Description, laue_class: str) -> dict:
    """What the data set is, and what was done that the map does not know, as plain numbers and text."""
    fraction = description.polarization_fraction
    return {
        "files": [str(name) for name in description.input_files],
        "space_group": description.space_group,
        "laue_class": laue_class,
        "symmetry": description.symmetry,
        "unit_cell": [float(x) for x in description.unit_cell],
        "wavelength": float(description.wavelength),
        "oscillation": float(description.oscillation),
        "phi_steps": int(description.phi_steps),
        "mask": description.mask,
        "polarization_fraction": None if fraction is None else float(fraction),
        "background": description.background,
        "unit": description.unit,
        "corrections": None if description.corrections is None else dict(description.corrections),
        "rejected_beyond": description.rejected_beyond,
        "scaled_by": list(description.scaled_by),
    }


def make_summary(
    found: Map,
    images: Sequence[ImageResult],
    names: Sequence[str],
    not_used: Mapping[str, Sequence[str]],
    dataset: dict,
    diagnosis: Diagnosis | None = None,
) -> dict:
    """
    The summary as plain numbers and text, but for the remarks on it (remarks.py).

    names: of the series; not_used: reason -> what was left out (experiments, files); dataset: describe_dataset's;
    diagnosis: of the scaling by equivalents, where there was one.
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
            "pixels": count_pixels(images),
            "n_images": len(images),
            "n_images_used": len(used),
            "masked": _part(sum(image.n_bragg for image in used), sum(image.n_inside for image in used)),
            "rejected": _part(sum(image.n_rejected for image in used), sum(image.n_inside for image in used)),
            "sweep": grid.voxels_swept(dataset["oscillation"] / dataset["phi_steps"]),
            "scaling": None if diagnosis is None else _plain(asdict(diagnosis)),
            "series": list(names),
            "images": list_images(images, names),
        }
    )
    return summary


def _plain(value):
    """Arrays as lists."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return value.tolist() if isinstance(value, np.ndarray) else value


def count_pixels(images: Sequence[ImageResult]) -> dict:
    """All pixels of all images: n_input = n_averaged + the sum of not_used, by reason (records.ImageResult)."""
    used = [image for image in images if image.error is None]

    def add(name: str) -> int:
        return sum(getattr(image, name) for image in used)

    n_input = sum(image.n_pixels for image in images)
    not_used = {
        "of images that could not be used": n_input - add("n_pixels"),
        "outside of the limits of resolution, or on ice rings": add("n_pixels")
        - add("n_masked")
        - add("n_untrusted")
        - add("n_inside"),
        "masked": add("n_masked"),
        "outside of the trusted range, or in a shadow": add("n_untrusted"),
        "Bragg peaks": add("n_bragg"),
        "rejected as outliers": add("n_rejected"),
    }
    n_averaged = n_input - sum(not_used.values())
    return {"n_input": n_input, "n_averaged": n_averaged, "not_used": {why: n for why, n in not_used.items() if n}}


def list_images(images: Sequence[ImageResult], names: Sequence[str]) -> list[dict]:
    """What is reported of each image; scale and level relative to the mean of those that were used."""
    used = [image for image in images if image.error is None]
    scale, level = (_mean([getattr(image, name) for image in used]) for name in ("scale", "level"))
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


def _mean(values: Sequence[float]) -> float:
    """The mean of those that exist, NaN of none: a single image without a level takes it from no other."""
    known = [value for value in values if math.isfinite(value)]
    return math.fsum(known) / len(known) if known else math.nan


def _part(n: int, total: int) -> float | None:
    return n / total if total else None
