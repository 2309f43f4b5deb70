"""
Reference intensities written: as MTZ, and as a scaled reflection table with an experiment that goes with it.

MTZ: I and SIGI, FC and PHIFC (degrees); with Friedel mates apart the same as (+) and (-).  Table: one row an index,
with the columns of a scaled one (files/tables.py; scale and partiality one) and

    reference.amplitude, reference.phase    |F_model| and its phase in degrees
    d                                       Angstrom
"""

from __future__ import annotations

import numpy as np

from cctbx import crystal
from dials.array_family import flex
from dxtbx import flumpy
from dxtbx.model import BeamFactory, Crystal, Experiment
from dxtbx.model.experiment_list import ExperimentList

from dials_postrefine.files.reference_model import Beam, Reference

IDENTIFIER = "reference"
NO_WAVELENGTH = 1.0  # Angstrom, written where none is known


def write_mtz(reference: Reference, path: str, wavelength: float | None, title: str) -> None:
    """Write the MTZ (module docstring) of what is known."""
    indices, result = reference.indices, reference.result
    known = np.isfinite(result.intensity)
    array = indices.array(data=_flex(result.intensity), sigmas=_flex(result.sigma))
    array.set_observation_type_xray_intensity()
    factors = indices.array(data=_flex(result.amplitude * np.exp(1j * np.radians(result.phase))))
    selected = flumpy.from_numpy(known)
    dataset = array.select(selected).as_mtz_dataset(
        column_root_label="I", title=title, wavelength=wavelength or NO_WAVELENGTH
    )
    dataset.add_miller_array(factors.select(selected), column_root_label="FC")
    dataset.mtz_object().write(path)


def make_table(reference: Reference):
    """The reflection table (module docstring) of what is known."""
    result = reference.result
    known = np.isfinite(result.intensity)
    selected = flumpy.from_numpy(known)
    n = int(np.count_nonzero(known))
    table = flex.reflection_table()
    table["miller_index"] = reference.indices.indices().select(selected)
    table["id"] = flex.int(n, 0)
    table["intensity.scale.value"] = _flex(result.intensity[known])
    smallest = np.finfo(float).tiny
    table["intensity.scale.variance"] = _flex(np.maximum(result.sigma[known] ** 2, smallest))
    table["inverse_scale_factor"] = flex.double(n, 1.0)
    table["inverse_scale_factor_variance"] = flex.double(n, 0.0)
    table["partiality"] = flex.double(n, 1.0)
    table["d"] = reference.indices.d_spacings().data().select(selected)
    table["reference.amplitude"] = _flex(result.amplitude[known])
    table["reference.phase"] = _flex(result.phase[known])
    table["flags"] = flex.size_t(n, int(table.flags.integrated_sum) | int(table.flags.scaled))
    table.experiment_identifiers()[0] = IDENTIFIER
    return table


def make_experiments(symmetry: crystal.symmetry, beam: Beam, like: Experiment | None = None) -> ExperimentList:
    """One experiment with the crystal, in an arbitrary orientation; beam and detector are those of `like` if given."""
    orthogonal = np.array(symmetry.unit_cell().orthogonalization_matrix()).reshape(3, 3)
    experiment = Experiment(
        beam=like.beam if like else BeamFactory.simple(beam.wavelength or NO_WAVELENGTH),
        detector=like.detector if like else None,
        crystal=Crystal(*(tuple(axis) for axis in orthogonal.T), symmetry.space_group()),
        identifier=IDENTIFIER,
    )
    return ExperimentList([experiment])


def _flex(values: np.ndarray):
    return flumpy.from_numpy(np.ascontiguousarray(values))
