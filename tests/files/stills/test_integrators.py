"""
The tables that each mode of each integrator writes, as far as columns and flags go: all programs take them.

What a mode writes is from DIALS' sources (algorithms/integration/integrator.py and ssx, profile_model/ellipsoid,
command_line/stills_process.py) and from real output:

    dials.stills_process           predicted, integrated_sum; partiality 1, partial_id; cctbx.xfel.process: the same
    dials.ssx_integrate ellipsoid  integrated_sum, found ones strong, indexed ...; partiality and its variance, lp, qe
    dials.ssx_integrate stills     predicted, integrated_sum; neither partiality nor lp
    dials.integrate                predicted, integrated_sum, integrated_prf; partiality, lp, qe
"""

from __future__ import annotations

import numpy as np
import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("cctbx", reason="the tables are those of DIALS")
pytest.importorskip("dials.array_family.flex", reason="the tables are those of DIALS")

from dials.array_family import flex
from dials.util import Sorry

from dials_postrefine.files.dials.models import read_experiments, set_identifiers
from dials_postrefine.files.electron.scaled_images import ImageChoice, read_images
from dials_postrefine.files.images.bragg_peaks import observed_peaks
from dials_postrefine.files.images.experiments import reflections_by_experiment
from dials_postrefine.programs.merged_data import read_data
from dials_postrefine.programs.stills_input import StillsChoice, read_stills
from dials_postrefine.simulate.still_files import make_experiments, make_reflections
from dials_postrefine.simulate.stills import StillsOptions, simulate_stills
from dials_postrefine.simulate.sweeps import SweepOptions, simulate_sweeps, write_sweeps

pytestmark = pytest.mark.dials

FOUND = ("strong", "indexed", "reference_spot", "used_in_refinement")
# columns that a mode adds with a value, columns that it has not, flags of all rows; found spots have FOUND as well
MODES = {
    "dials.stills_process": ({"partial_id": 7}, (), ("predicted", "integrated_sum")),
    "dials.ssx_integrate algorithm=stills": ({}, ("partiality",), ("predicted", "integrated_sum")),
    "dials.ssx_integrate algorithm=ellipsoid": (
        {"partiality": 0.6, "partiality.inv.variance": 0.1, "lp": 1.0, "qe": 1.0},
        ("delpsical.rad",),
        ("integrated_sum",),
    ),
    "ellipsoid, its partiality renamed": (
        {"partiality.inv.variance": 0.0, "lp": 1.0, "model_partiality": 0.6},
        ("partiality", "delpsical.rad"),
        ("integrated_sum",),
    ),
    "dials.integrate of stills": (
        {"partiality": 1.0, "partial_id": 7, "lp": 1.0, "qe": 1.0, "intensity.prf": 1.0},
        (),
        ("predicted", "integrated_sum", "integrated_prf"),
    ),
    "converted, the bare contract": ({}, ("partiality", "entering", "delpsical.rad", "bbox", "d"), ("integrated_sum",)),
}


def as_written(table, mode: str, found_only: bool = False) -> None:
    """Give a table the columns and flags of a mode; a quarter of the rows are found spots, or all."""
    added, missing, names = MODES[mode]
    n = len(table)
    for name in missing:
        del table[name]
    for name, value in added.items():
        if name == "intensity.prf":
            for what in ("value", "variance"):
                table[f"intensity.prf.{what}"] = table[f"intensity.sum.{what}"]
        else:
            table[name] = flex.size_t(n, value) if isinstance(value, int) else flex.double(n, value)
    flags = table.flags
    table["flags"] = flex.size_t(n, sum(int(getattr(flags, name)) for name in names))
    found = flex.bool([found_only or k % 4 == 0 for k in range(n)])
    for name in FOUND:
        table.set_flags(found, getattr(flags, name))


@pytest.fixture(scope="module")
def simulated():
    sim = simulate_stills(StillsOptions(n_lattices=3, seed=4, d_min=3.5, polarization_fraction=0.97))
    return sim, make_experiments(sim)


@pytest.fixture()
def write(simulated, tmp_path):
    """A function: mode, file name -> the paths of the pair, as lists."""
    sim, experiments = simulated

    def write(mode: str, name: str = "integrated", change=None, prefix=""):
        table = make_reflections(sim, experiments)
        as_written(table, mode)
        if change:
            change(table)
        copies = make_experiments(sim)
        for k, experiment in enumerate(copies):
            experiment.identifier = prefix + experiment.identifier
            table.experiment_identifiers()[k] = experiment.identifier
        copies.as_file(str(tmp_path / f"{name}.expt"))
        table.as_file(str(tmp_path / f"{name}.refl"))
        return [str(tmp_path / f"{name}.expt")], [str(tmp_path / f"{name}.refl")]

    return write


def expected(sim, mode: str) -> np.ndarray:
    """The intensities, corrected for polarisation once: by the column lp (here 1) or, without it, by the beam model."""
    return sim.intensity if "lp" in MODES[mode][0] else sim.intensity / sim.polarisation


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("program", ["dials.postrefine", "dials.reference_intensities"])
def test_stills_of_each_mode_are_read_with_p_1(simulated, write, mode, program):
    sim = simulated[0]
    pair = write(mode)
    files = read_stills(*pair) if program == "dials.postrefine" else read_data(*pair).stills
    assert len(files.usable.row) == len(sim.intensity) and not files.usable.n_excluded
    assert files.usable.intensity == pytest.approx(expected(sim, mode)[files.usable.row], rel=1e-9)


@pytest.mark.parametrize("mode", MODES)
def test_rows_that_were_not_integrated_are_out(simulated, write, mode):
    def fail_some(table):
        table["flags"].set_selected(flex.size_t(range(0, len(table), 5)), int(table.flags.predicted))

    usable = read_stills(*write(mode, change=fail_some)).usable
    assert usable.n_excluded == {"not integrated": len(range(0, len(simulated[0].intensity), 5))}


@pytest.mark.parametrize("mode", MODES)
def test_each_mode_goes_together_with_stills_process(simulated, write, mode):
    sim = simulated[0]
    one, other = write("dials.stills_process"), write(mode, "other", prefix="other-")
    files = read_stills(one[0] + other[0], one[1] + other[1])
    assert len(files.usable.row) == 2 * len(sim.intensity)
    if "lp" not in MODES[mode][0]:
        assert np.sort(files.usable.intensity)[::2] == pytest.approx(np.sort(files.usable.intensity)[1::2])


def test_the_output_has_a_refined_partiality_where_the_input_has_none(write, run_program, tmp_path):
    write("dials.ssx_integrate algorithm=stills")
    options = ("nproc=1", "n_cycles=1", "cross_validation=none", "output.html=None", "min_reflections=5")
    options += ("require_gain=False",)  # few lattices as they are
    done = run_program("dials.postrefine", "integrated.expt", "integrated.refl", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    table = flex.reflection_table.from_file(str(tmp_path / "postrefined.refl"))
    p = np.array(table["partiality"])
    assert (p > 0.0).all() and p.std() > 0.01


@pytest.mark.parametrize("mode", [mode for mode, (_, missing, _) in MODES.items() if "bbox" not in missing])
def test_masks_of_the_diffuse_map_take_boxes_of_each_mode(write, mode):
    paths, reflections = write(mode)
    lists = [read_experiments(path) for path in paths]
    tables = reflections_by_experiment(reflections, set_identifiers(lists), lists[0])
    for experiment, table in zip(lists[0], tables):
        assert len(observed_peaks(table, experiment).panel) == len(table) > 50


@pytest.mark.parametrize("variance", ["counting", "scaled"])
def test_scaled_tables_without_partiality_give_images_as_with_p_1(tmp_path, variance):
    """dials.image_spread and dials.intensity_model read by this function."""
    sweeps = simulate_sweeps(SweepOptions(n_crystals=2, n_images=60))
    found = []
    for name in ("with", "without"):
        if name == "without":
            del sweeps.table["partiality"]
        pair = write_sweeps(sweeps, tmp_path / name)
        found.append(read_images([pair[0]], [pair[1]], ImageChoice(variance=variance)).images)
    assert len(found[0].intensity) > 500
    for what in ("intensity", "variance"):
        np.testing.assert_array_equal(getattr(found[0], what), getattr(found[1], what))


def test_files_with_and_without_partiality_keep_that_of_those_that_have_it(tmp_path):
    """The variance of counts of summed intensities is divided by p^2: p must not be lost with the other file's."""
    names, alone = [], []
    for number in range(2):
        sweeps = simulate_sweeps(SweepOptions(n_crystals=1, n_images=60, seed=number))
        table = sweeps.table
        for k, experiment in enumerate(sweeps.experiments):
            experiment.identifier = table.experiment_identifiers()[k] = f"{number}-{k}"
        for what in ("value", "variance"):
            if f"intensity.prf.{what}" in table:
                del table[f"intensity.prf.{what}"]
        table["partiality"] = flex.double(len(table), 0.5)
        if number:
            del table["partiality"]
        names.append(write_sweeps(sweeps, tmp_path / f"scaled_{number}"))
        alone.append(read_images([names[-1][0]], [names[-1][1]]).images.variance)
    together = read_images([n[0] for n in names], [n[1] for n in names]).images.variance
    assert np.sort(together) == pytest.approx(np.sort(np.concatenate(alone)), rel=1e-12)


def test_sums_over_found_spots_alone_are_not_taken_for_integrated(simulated, write):
    def spots(table):
        table["flags"] = flex.size_t(len(table), int(table.flags.integrated_sum) | int(table.flags.used_in_refinement))

    pair = write("converted, the bare contract", change=spots)
    with pytest.raises(Sorry, match="not integrated .the rows with the flag integrated_sum are found spots"):
        read_stills(*pair)
    assert len(read_stills(*pair, StillsChoice(intensity="strong_spots")).usable.row) == len(simulated[0].intensity)


def test_without_the_flag_the_message_names_it(write):
    pair = write(
        "dials.stills_process", change=lambda t: t.unset_flags(flex.bool(len(t), True), t.flags.integrated_sum)
    )
    with pytest.raises(Sorry, match="not integrated .no row has the flag integrated_sum.*strong_spots"):
        read_stills(*pair)
