"""The data a reference is fitted to: stills merged on the scale of a model, and the reference that they get."""

from __future__ import annotations

import numpy as np
import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("cctbx", reason="cctbx reads the files")
pytest.importorskip("dials.array_family.flex", reason="the tables are those of DIALS")

from cctbx import crystal, miller
from dials.util import Sorry
from dxtbx import flumpy

from dials_postrefine.files.dials.versions import miller_indices_to_numpy
from dials_postrefine.files.reference.alignment import align, read_reference
from dials_postrefine.numerics.indices import to_flex_miller
from dials_postrefine.programs.merged_data import Data, compute_for_data, merge_stills, read_data, take_reference
from dials_postrefine.programs.reference_model import Beam, ReferenceSettings
from dials_postrefine.programs.stills_input import read_stills
from dials_postrefine.simulate.still_files import write_stills
from dials_postrefine.simulate.stills import StillsOptions, simulate_stills

pytestmark = pytest.mark.dials

OPTIONS = StillsOptions(n_lattices=30, seed=4, d_min=4.0, noise=False, misorientation=0.0)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    sim = simulate_stills(OPTIONS)
    stem = tmp_path_factory.mktemp("stills") / "stills"
    write_stills(sim, str(stem))
    return sim, [f"{stem}.expt"], [f"{stem}.refl"]


def test_stills_are_merged_on_the_scale_of_the_model(simulated):
    """Partial, so that they are noisy, but on the model's scale, and related to it."""
    sim, experiments, reflections = simulated
    data = read_data(experiments, reflections)
    assert data.merged is None and data.beam.wavelength == pytest.approx(OPTIONS.wavelength)
    assert data.d_min == pytest.approx(OPTIONS.d_min, abs=0.05)
    merged = merge_stills(data, sim.reference_h, sim.reference_intensity).merged
    truth = align(miller_indices_to_numpy(merged.indices()), sim.reference_h, sim.reference_intensity)
    value = flumpy.to_numpy(merged.data())
    assert np.isfinite(truth).all()
    assert np.median(np.sqrt(value) / np.sqrt(truth)) == pytest.approx(1.0, abs=0.15)
    assert np.corrcoef(value, truth)[0, 1] > 0.7
    assert (flumpy.to_numpy(merged.sigmas()) > 0.0).all()


def test_friedel_mates_of_stills_can_not_be_kept_apart(simulated):
    sim, experiments, reflections = simulated
    with pytest.raises(Sorry, match="Friedel"):
        merge_stills(read_data(experiments, reflections), sim.reference_h, sim.reference_intensity, anomalous=True)


def write_truth(sim, group, path) -> str:
    symmetry = crystal.symmetry(unit_cell=OPTIONS.unit_cell, space_group=group)
    array = miller.set(symmetry, to_flex_miller(sim.reference_h), anomalous_flag=False).array(
        flumpy.from_numpy(sim.reference_intensity)
    )
    array.set_observation_type_xray_intensity().as_mtz_dataset(column_root_label="I").mtz_object().write(str(path))
    return str(path)


def test_a_reflection_file_is_fitted_to_the_stills(simulated, tmp_path):
    """What comes back is proportional to the file but for a scale and an anisotropic B."""
    sim, experiments, reflections = simulated
    data = read_data(experiments, reflections)
    path = write_truth(sim, data.symmetry.space_group(), tmp_path / "truth.mtz")
    reference = compute_for_data(path, ReferenceSettings(), data)
    h, intensity = reference.known()
    expected = align(h, sim.reference_h, sim.reference_intensity)
    assert np.isfinite(expected).all() and len(h) > 0.9 * len(sim.reference_h)
    large = expected > 1.0
    design = np.column_stack([np.ones(np.count_nonzero(large)), h[large] ** 2])
    log_ratio = np.log(intensity[large] / expected[large])
    assert np.abs(log_ratio - design @ np.linalg.lstsq(design, log_ratio, rcond=None)[0]).max() < 1e-3
    assert reference.n_data > 100 and reference.result.shells[-1].cc_i > 0.7


def test_dials_postrefine_takes_a_reflection_file_as_it_is(simulated, tmp_path):
    sim, experiments, reflections = simulated
    files = read_stills(experiments, reflections)
    path = write_truth(sim, files.space_group, tmp_path / "truth.mtz")
    same, intensity, reference = take_reference(files, path, ReferenceSettings(), reindex=True)
    assert same.stills is files.stills and reference is None
    assert same.reference_tally.n_input == same.reference_tally.n_merged == len(sim.reference_h)
    expected = align(files.h_unique, sim.reference_h, sim.reference_intensity)
    expected[files.stills.absent] = np.nan
    assert intensity == pytest.approx(expected, rel=1e-6, nan_ok=True)
    assert intensity == pytest.approx(
        align(files.h_unique, *read_reference(path, files.space_group, files.cell)), rel=1e-6, nan_ok=True
    )


def test_nothing_is_data_and_experiments_alone_give_symmetry_and_beam(simulated):
    _, experiments, _ = simulated
    assert read_data([], []) is None
    data = read_data(experiments, [])
    assert data.merged is None and data.stills is None
    assert data.symmetry.unit_cell().parameters() == pytest.approx(OPTIONS.unit_cell, abs=0.01)
    assert isinstance(data, Data) and isinstance(data.beam, Beam)


@pytest.mark.data
@pytest.mark.slow
def test_an_atomic_model_gives_the_reference_that_its_intensities_give(shared_data):
    """Simulated pixel by pixel by another program, from intensities of this model that lie beside the set."""
    folder = shared_data / "nanobragg_lysozyme_20"
    files = read_stills([str(folder / "integrated.expt")], [str(folder / "integrated.refl")])
    model = str(shared_data / "models" / "RTSAD_HEWL_refine_25.pdb")
    files, intensity, reference = take_reference(files, model, ReferenceSettings(), reindex=True)
    truth = align(files.h_unique, *read_reference(str(folder / "truth_1.75A.mtz"), files.space_group, files.cell))
    known = np.isfinite(truth) & np.isfinite(intensity)
    assert np.count_nonzero(known) > 0.99 * np.count_nonzero(np.isfinite(truth)) > 5000
    assert np.corrcoef(intensity[known], truth[known])[0, 1] > 0.99
    assert reference.result.indexing.fit.k_sol == pytest.approx(0.35, abs=0.03)
