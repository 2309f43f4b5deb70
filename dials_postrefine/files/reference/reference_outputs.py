"""
Reference intensities written: as MTZ, and as a scaled reflection table with an experiment that goes with it.

MTZ: I and SIGI, FC and PHIFC (degrees), F in place of these where phases are not known; with Friedel pairs apart the
same as (+) and (-).  Its wavelength is 0, as CCP4 has it, where none is known.  Table: one row an index, with the
columns of a scaled one (files/dials/tables.py; scale and partiality one) and

    reference.amplitude, reference.phase    |F_model| and, where it is known, its phase in degrees
    d                                       Angstrom

Experiment: the crystal, in an arbitrary orientation, and a beam of the wavelength and radiation that were calculated
with, none where the wavelength is not known; the detector is that of the data where they have one.

reference is a programs.reference_model.Reference throughout.
"""

from __future__ import annotations

import numpy as np

from dials.array_family import flex
from dxtbx import flumpy
from dxtbx.model import Crystal, Experiment
from dxtbx.model.experiment_list import ExperimentList

from dials_postrefine.files.dials.versions import make_beam

IDENTIFIER = "reference"


def write_mtz(reference, path: str, title: str) -> None:
    """Write the MTZ (module docstring) of what is known."""
    result, indices = reference.result, reference.known_set()
    known = np.isfinite(result.intensity)
    array = indices.array(data=_flex(result.intensity[known]), sigmas=_flex(result.sigma[known]))
    array.set_observation_type_xray_intensity()
    dataset = array.as_mtz_dataset(column_root_label="I", title=title, wavelength=reference.wavelength or 0.0)
    amplitude = result.amplitude[known]
    if not result.has_phases:
        factors = indices.array(data=_flex(amplitude)).set_observation_type_xray_amplitude()
        dataset.add_miller_array(factors, column_root_label="F")
    else:
        factors = indices.array(data=_flex(amplitude * np.exp(1j * np.radians(result.phase[known]))))
        dataset.add_miller_array(factors, column_root_label="FC")
    dataset.mtz_object().write(path)


def make_table(reference):
    """The reflection table (module docstring) of what is known."""
    result, indices = reference.result, reference.known_set()
    known = np.isfinite(result.intensity)
    n = int(np.count_nonzero(known))
    table = flex.reflection_table()
    table["miller_index"] = indices.indices()
    table["id"] = flex.int(n, 0)
    table["intensity.scale.value"] = _flex(result.intensity[known])
    smallest = np.finfo(float).tiny
    table["intensity.scale.variance"] = _flex(np.maximum(result.sigma[known] ** 2, smallest))
    table["inverse_scale_factor"] = flex.double(n, 1.0)
    table["inverse_scale_factor_variance"] = flex.double(n, 0.0)
    table["partiality"] = flex.double(n, 1.0)
    table["d"] = indices.d_spacings().data()
    table["reference.amplitude"] = _flex(result.amplitude[known])
    if result.has_phases:
        table["reference.phase"] = _flex(result.phase[known])
    table["flags"] = flex.size_t(n, int(table.flags.integrated_sum) | int(table.flags.scaled))
    table.experiment_identifiers()[0] = IDENTIFIER
    return table


def make_experiments(reference, detector=None) -> ExperimentList:
    """The experiment (module docstring), with a detector where there is one."""
    symmetry = reference.indices.crystal_symmetry()
    orthogonal = np.array(symmetry.unit_cell().orthogonalization_matrix()).reshape(3, 3)
    experiment = Experiment(
        beam=make_beam(reference.wavelength, reference.radiation) if reference.wavelength else None,
        detector=detector,
        crystal=Crystal(*(tuple(axis) for axis in orthogonal.T), symmetry.space_group()),
        identifier=IDENTIFIER,
    )
    return ExperimentList([experiment])


def _flex(values: np.ndarray):
    return flumpy.from_numpy(np.ascontiguousarray(values))
