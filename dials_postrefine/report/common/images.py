"""What the programs for electron diffraction say of the scaled data sets that they have read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from dials_postrefine.numerics.absences import Absences
from dials_postrefine.numerics.images import COLUMNS, Images
from dials_postrefine.report.common.remarks import Remark, care, distance_remarks


@dataclass(frozen=True)
class ImageDataset:
    """
    What was read: the images, the names of their experiments; space group (symbol) and unit cell (Angstrom, degrees);
    the kind of the intensities (COLUMNS), what their variances are of, whether outliers are "kept" or "excluded"; how
    many observations were given, and how many were not used by reason; the systematic absences; wavelengths (Angstrom)
    and detector distances (mm), each with its number of images; where the beam intensity is from; remarks.
    """

    images: Images
    experiments: Sequence[str]
    space_group: str
    unit_cell: Sequence[float]
    kind: str
    variance: str
    outliers: str
    n_input: int
    not_used: dict[str, int]
    absences: Absences
    wavelengths: list[tuple[float, int]]
    detector_distances: list[tuple[float, int]]
    beam_intensity: str
    remarks: Sequence[str | Remark]


def describe_images(dataset: ImageDataset) -> dict:
    """The entries of a summary's `dataset` that all programs have."""
    return {
        "experiments": dataset.experiments,
        "n_input": dataset.n_input,
        "n_observations": len(dataset.images.h),
        "n_unique": len(np.unique(dataset.images.unique)),
        "column": name_column(dataset.kind),
        "wavelengths": [{"wavelength": value, "n_images": n} for value, n in dataset.wavelengths],
        "detector_distances": [{"distance": value, "n_images": n} for value, n in dataset.detector_distances],
    }


def describe_losses(dataset: ImageDataset) -> dict:
    """The entries of a summary on absences, and on what was not used."""
    return {"absences": asdict(dataset.absences), "not_used": dataset.not_used}


def name_column(kind: str) -> str:
    """The column of a reflection table that has the values of a kind of intensities."""
    return f"{COLUMNS[kind]}.value"


def population_remarks(dataset: dict) -> list[Remark]:
    """A remark where wavelengths, and one where detector distances fall into groups (describe_images)."""
    found, groups = [], dataset["wavelengths"]
    if len(groups) > 1:
        named = ", ".join(f"{one['wavelength']:.5f} A ({one['n_images']} images)" for one in groups)
        found.append(
            care(
                f"{len(groups)} wavelengths",
                f"The images are of {len(groups)} wavelengths, {named}: what differs between these (dispersion, "
                "multiple scattering) is taken for a spread of one crystal form; analyse each wavelength by itself.",
            )
        )
    distances = [(one["distance"], one["n_images"]) for one in dataset["detector_distances"]]
    return found + distance_remarks(distances, "images")
