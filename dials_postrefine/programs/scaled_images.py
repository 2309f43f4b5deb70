"""What the reports of the programs for electron diffraction say of the scaled data sets that were read."""

from __future__ import annotations

from dials_postrefine.files.electron.scaled_images import ImageChoice, ImageFiles
from dials_postrefine.report.common.images import ImageDataset


def describe_dataset(files: ImageFiles, choice: ImageChoice) -> ImageDataset:
    """The data set (report/common/images.py) of the files, as they were read by this choice."""
    return ImageDataset(
        images=files.images,
        experiments=files.identifiers,
        space_group=files.space_group.type().lookup_symbol(),
        unit_cell=files.cell,
        kind=choice.intensity,
        variance=choice.variance if choice.intensity == "scale" else "of the column",
        outliers="kept" if choice.keep_outliers else "excluded",
        n_input=files.n_input,
        not_used=files.n_excluded,
        absences=files.absences(),
        wavelengths=files.wavelengths(),
        detector_distances=files.detector_distances(),
        beam_intensity=files.beam_source,
        remarks=files.remarks,
    )
