"""How observations were recorded, as it is in files, and polarization_fraction= in place of that of the beam models."""

from __future__ import annotations

import numpy as np
import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("dials.array_family.flex", reason="the tables are those of DIALS")

from dials.array_family import flex
from dxtbx import flumpy
from dxtbx.model import GoniometerFactory

from dials_postrefine.files.dials.integrated import add_polarisation, set_polarization_fraction
from dials_postrefine.programs.stills_input import StillsChoice, read_stills
from dials_postrefine.programs.stills_recording import read_recording
from dials_postrefine.simulate.still_files import as_recording, make_experiments, make_reflections
from dials_postrefine.simulate.stills import StillsOptions, simulate_stills
from dials_postrefine.stills.systematics.polarisation import stokes_of

pytestmark = pytest.mark.dials

SIM = simulate_stills(StillsOptions(n_lattices=4, seed=4, d_min=3.5, beam_tilt=2.0, polarization_fraction=0.97))


@pytest.fixture
def write(tmp_path):
    """A function that writes the simulation, changed by change(experiments, table), and gives the names as lists."""

    def write(change=lambda experiments, table: None):
        experiments = make_experiments(SIM)
        table = make_reflections(SIM, experiments)
        change(experiments, table)
        names = str(tmp_path / "stills.expt"), str(tmp_path / "stills.refl")
        experiments.as_file(names[0])
        table.as_file(names[1])
        return [names[0]], [names[1]]

    return write


def set_fraction(fraction: float):
    def change(experiments, table):
        for beam in experiments.beams():
            beam.set_polarization_fraction(fraction)

    return change


def test_what_is_in_the_files(write):
    files = read_stills(*write())
    found, expected, row = read_recording(files), as_recording(SIM), files.usable.row
    for name in ("s1", "correction"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name)[row], rel=1e-9)
    for name in ("s0", "normal", "fraction", "order"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), abs=1e-9)
    assert not found.shared.any() and (found.panel == 0).all()
    middle = 0.5 * np.array(files.experiments[0].detector[0].get_image_size())
    assert (found.position - 0.5) * 2.0 * middle == pytest.approx(
        np.array(files.table["xyzobs.px.value"])[row][:, :2] - middle
    )


def test_the_factor_by_stokes_parameters_is_that_of_the_correction():
    """For all fractions, and a plane that is turned about the beam."""
    from dials_postrefine.simulate.stills import polarisation_factor, rotation_matrices

    recording, s0 = as_recording(SIM), SIM.s0[0] / np.linalg.norm(SIM.s0[0])
    stokes = stokes_of(recording, np.arange(len(SIM.s1)), SIM.lattice)
    for fraction, psi in ((0.97, 0.0), (0.2, 0.0), (0.8, 0.3), (1.0, -0.6)):
        normal = rotation_matrices(psi * s0)[0] @ recording.normal[0]
        factor = polarisation_factor(SIM.s1, s0, normal, fraction)
        of_these = (2.0 * fraction - 1.0) * np.array([np.cos(2.0 * psi), np.sin(2.0 * psi)])
        assert stokes.factor(of_these) == pytest.approx(factor, rel=1e-12)


def test_lattices_on_one_goniometer_and_electrons(write):
    def change(experiments, table):
        for k in (0, 2):  # a model each, of one goniometer
            experiments[k].goniometer = GoniometerFactory.single_axis()
        experiments[1].goniometer = GoniometerFactory.known_axis((0, 1, 0))

    files = read_stills(*write(change))
    assert read_recording(files).shared.tolist() == [True, False, True, False]
    assert np.isnan(read_recording(read_stills(*write(), StillsChoice(radiation="electron"))).fraction).all()


def test_lattices_are_in_the_order_of_their_images(write):
    """Numbers in names count as numbers; several lattices of one image have one place."""
    from dxtbx.format.Format import Reader
    from dxtbx.format.FormatCBFMini import FormatCBFMini
    from dxtbx.imageset import ImageSet, ImageSetData

    names = ["run_10_00002.cbf", "run_9_00011.cbf", "run_9_00002.cbf", "run_10_00002.cbf"]

    def change(experiments, table):
        for experiment, name in zip(experiments, names):
            experiment.imageset = ImageSet(ImageSetData(Reader(FormatCBFMini, [name]), None))

    files = read_stills(*write(change))
    assert sorted(read_recording(files).order[files.order].tolist()) == [0.0, 1.0, 2.0, 2.0]
    assert read_recording(files).order[files.order].tolist() == [2.0, 1.0, 0.0, 2.0]


def test_files_without_positions_and_panels(write):
    def change(experiments, table):
        for name in ("panel", "xyzobs.px.value", "xyzcal.px"):
            del table[name]

    found = read_recording(read_stills(*write(change)))
    assert np.isnan(found.position).all() and (found.panel == 0).all()


@pytest.mark.parametrize("fraction", [0.0, 0.6, 1.0])
def test_a_fraction_that_is_given_is_that_of_the_correction_and_of_the_models(write, fraction):
    expected = read_stills(*write(set_fraction(fraction)))
    found = read_stills(*write(set_fraction(0.3)), StillsChoice(polarization_fraction=fraction))
    assert found.stills.intensity == pytest.approx(expected.stills.intensity, rel=1e-12)
    assert found.stills.variance == pytest.approx(expected.stills.variance, rel=1e-12)
    assert {experiment.beam.get_polarization_fraction() for experiment in found.experiments} == {fraction}
    left = read_stills(*write(set_fraction(0.3)))
    assert {experiment.beam.get_polarization_fraction() for experiment in left.experiments} == {0.3}
    assert abs(left.stills.intensity / expected.stills.intensity - 1.0).max() > 0.01


def test_a_correction_of_the_integrator_follows(write):
    """From the fraction of the models to the one given; given again it changes nothing."""

    def with_lp(experiments, table):
        set_fraction(0.3)(experiments, table)
        add_polarisation(table, experiments)
        table["lp"] = 1.5 * table["lp"]  # with something else in it

    expected = read_stills(*write(set_fraction(0.8))).stills.intensity
    files = read_stills(*write(with_lp), StillsChoice(polarization_fraction=0.8))
    assert files.stills.intensity == pytest.approx(1.5 * expected, rel=1e-12)
    before = np.array(files.table["lp"])
    set_polarization_fraction(files.table, files.experiments, 0.8)
    assert np.array(files.table["lp"]) == pytest.approx(before, rel=1e-15)


def test_electrons_are_left_alone(write):
    files = read_stills(*write(set_fraction(0.3)), StillsChoice(polarization_fraction=0.8, radiation="electron"))
    assert (np.array(files.table["lp"]) == 1.0).all()
    assert files.experiments[0].beam.get_polarization_fraction() == 0.3


def test_damaged_columns_are_as_good_as_none(write):
    def change(experiments, table):
        n = len(table)
        del table["panel"], table["xyzobs.px.value"], table["xyzcal.px"]
        table["panel"] = flumpy.from_numpy(np.full(n, 0.5))
        table["xyzcal.px"] = flex.int(n, 3)

    found = read_recording(read_stills(*write(change)))
    assert np.isnan(found.position).all() and (found.panel == 0).all()


@pytest.mark.filterwarnings("error")
def test_a_panel_without_a_width_has_no_places(write):
    def change(experiments, table):
        for panel in experiments[0].detector:
            panel.set_image_size((0, panel.get_image_size()[1]))

    found = read_recording(read_stills(*write(change)))
    assert np.isnan(found.position[:, 0]).all() and np.isfinite(found.position[:, 1]).all()
