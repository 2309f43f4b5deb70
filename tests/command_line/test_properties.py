"""
dials.postrefine on whatever lattices and intensities come: no crash, nothing that is not finite in what is to be
merged, and no word in the result about the order in which lattices and reflections were given.

Each example is a draw of simulated lattices, some of them more than once, cut short or with intensities that no
detector counts.  The examples are the same in every run.
"""

from __future__ import annotations

import json
import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("cctbx", reason="the tables and experiments are those of DIALS")
pytest.importorskip("dials.array_family.flex", reason="the tables and experiments are those of DIALS")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dials.array_family import flex
from dxtbx import flumpy
from dxtbx.model import Experiment
from dxtbx.model.experiment_list import ExperimentList

from dials_postrefine.command_line import postrefine
from dials_postrefine.simulate.still_files import write_stills
from dials_postrefine.simulate.stills import StillsOptions, simulate_stills

pytestmark = [pytest.mark.dials, pytest.mark.slow]

N_LATTICES = 24
BAD_NUMBERS = (0.0, -1.0, -1e6, 1e12, 1e35, 1e300, float("nan"), float("inf"), float("-inf"))
USED = ("intensity.scale.value", "intensity.scale.variance", "inverse_scale_factor", "inverse_scale_factor_variance")
POSITIVE = USED[1:3]

some_examples = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@dataclass
class Damage:
    """What happens to a lattice: so many reflections are left, a share of which gets a bad number in a column."""

    left: int
    column: str
    number: float
    share: float


damages = st.builds(
    Damage,
    left=st.sampled_from([0, 1, 2, 3, 9, 10, 1000]),
    column=st.sampled_from(["intensity.sum.value", "intensity.sum.variance", "lp"]),
    number=st.sampled_from(BAD_NUMBERS),
    share=st.sampled_from([0.01, 0.5, 1.0]),
)
drawn_lattices = st.lists(
    st.tuples(st.integers(0, N_LATTICES - 1), st.one_of(st.none(), damages)), min_size=2, max_size=30
)
models = st.sampled_from(
    [
        (),
        ("profile=gaussian", "radius=mosaic", "unit_cell=scale"),
        ("profile=hard_sphere", "loss=student_t", "weighting=unit", "error_model=none"),
        ("algorithm=rs", "engine=lstbx", "restraints=False"),
        ("cross_validation=free_reflections", "free_fraction=0.3"),
        ("cross_validation=half_sets", "filtering.method=deltacchalf"),
        ("filtering.significance_filter.enable=True",),
    ]
)

pages = st.sampled_from([("output.html=None",), ("output.html=None",), ()])  # which take longer than all the rest


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """Experiments, and the rows of each as a table of its own, polarisation corrected."""
    folder = tmp_path_factory.mktemp("simulated")
    write_stills(simulate_stills(StillsOptions(n_lattices=N_LATTICES, seed=3, d_min=3.5)), folder / "stills")
    experiments = ExperimentList.from_file(str(folder / "stills.expt"), check_format=False)
    table = flex.reflection_table.from_file(str(folder / "stills.refl"))
    table["lp"] = flex.double(len(table), 1.0)
    return experiments, [table.select(table["id"] == k) for k in range(N_LATTICES)]


def write_lattices(simulated, folder: Path, lattices, order: list[int], rng) -> None:
    """Write the drawn lattices in this order, rows shuffled, as one pair of files; damage depends on the draw alone."""
    experiments, tables = simulated
    whole, chosen = flex.reflection_table(), ExperimentList()
    for place, i in enumerate(order):
        k, damage = lattices[i]
        part = tables[k].copy()
        if damage is not None:
            part = part.select(flex.size_t(range(min(damage.left, len(part)))))
            values = flumpy.to_numpy(part[damage.column]).copy()
            values[np.random.default_rng(i).random(len(values)) < damage.share] = damage.number
            part[damage.column] = flumpy.from_numpy(values)
        part["id"] = flex.int(len(part), place)
        e = experiments[k]
        chosen.append(Experiment(identifier=f"lattice {i}", beam=e.beam, detector=e.detector, crystal=e.crystal))
        for name in list(part.experiment_identifiers().keys()):
            del part.experiment_identifiers()[name]
        whole.extend(part)
    whole = whole.select(flumpy.from_numpy(rng.permutation(len(whole)).astype(np.uint64)))
    for place, e in enumerate(chosen):
        whole.experiment_identifiers()[place] = e.identifier
    chosen.as_file(str(folder / "drawn.expt"))
    whole.as_file(str(folder / "drawn.refl"))


def run(folder: Path, *args: str) -> str | None:
    """Run dials.postrefine in this process; the sentence with which it ended, None where it did its work."""
    outputs = {"experiments": "out.expt", "reflections": "out.refl", "json": "out.json", "html": "out.html"}
    outputs = [f"output.{name}={folder / file}" for name, file in outputs.items()]
    loggers = [logging.getLogger(name) for name in ("dials", "dxtbx", "py.warnings")]
    handlers = [list(logger.handlers) for logger in loggers]
    try:
        files = [str(folder / "drawn.expt"), str(folder / "drawn.refl")]
        postrefine.run([*files, *outputs, "output.log=None", "nproc=1", "n_cycles=2", *args])
    except SystemExit as stop:
        message = stop.code
        assert isinstance(message, str) and message.startswith("Sorry: ") and message.endswith("."), message
        assert "\n" not in message
        assert not list(folder.glob("out.*"))
        return message
    finally:
        for logger, old in zip(loggers, handlers):
            logger.handlers[:] = old
        logging.captureWarnings(False)
    return None


def as_numbers(column) -> np.ndarray:
    """A column as an array whose rows can be compared."""
    if isinstance(column, (flex.std_string, flex.miller_index, flex.int6)):
        return np.array(list(column))
    return flumpy.to_numpy(column)


@some_examples
@given(lattices=drawn_lattices, args=models, html=pages, order=st.randoms(use_true_random=False))
def test_whatever_comes_what_is_to_be_merged_is_finite(simulated, lattices, args, html, order):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        numbers = list(range(len(lattices)))
        order.shuffle(numbers)
        write_lattices(simulated, folder, lattices, numbers, np.random.default_rng(0))
        if run(folder, *args, *html) is not None:
            return
        table = flex.reflection_table.from_file(str(folder / "out.refl"))
        experiments = ExperimentList.from_file(str(folder / "out.expt"), check_format=False)
        table.assert_experiment_identifiers_are_consistent(experiments)
        used = ~flumpy.to_numpy(table.get_flags(table.flags.bad_for_scaling, all=False))
        assert used.any()
        for key in (*USED, "partiality"):
            assert np.isfinite(flumpy.to_numpy(table[key])[used]).all(), key
        for key in (*POSITIVE, "partiality"):
            assert (flumpy.to_numpy(table[key])[used] > 0.0).all(), key
        for experiment in experiments:
            assert np.isfinite(experiment.crystal.get_A()).all()
        text = (folder / "out.json").read_text()
        assert not {"NaN", "Infinity", "-Infinity"} & set(text.replace(",", " ").split())
        accepted = [x["identifier"] for x in json.loads(text)["lattices"] if x["accepted"]]
        assert accepted == list(experiments.identifiers())


@some_examples
@given(lattices=drawn_lattices, args=models, order=st.randoms(use_true_random=False))
def test_the_order_of_lattices_and_reflections_changes_nothing(simulated, lattices, args, order):
    found = []
    for first in (True, False):
        numbers = list(range(len(lattices)))
        if not first:
            order.shuffle(numbers)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_lattices(simulated, folder, lattices, numbers, np.random.default_rng(int(first)))
            sentence = run(folder, *args, "output.html=None")
            if sentence is not None:
                found.append(sentence)
                continue
            experiments = ExperimentList.from_file(str(folder / "out.expt"), check_format=False)
            # the accepted lattices are in the order of the input
            place = {f"lattice {i}": k for k, i in enumerate(numbers)}
            assert [place[x] for x in experiments.identifiers()] == sorted(place[x] for x in experiments.identifiers())
            summary = json.loads((folder / "out.json").read_text())
            del summary["merge_command"], summary["provenance"]  # which name the folder
            assert [x["identifier"] for x in summary["lattices"]] == list(place)
            summary["lattices"].sort(key=lambda lattice: lattice["identifier"])
            table = flex.reflection_table.from_file(str(folder / "out.refl"))
            names = np.array(list(experiments.identifiers()))[flumpy.to_numpy(table["id"])]
            s1 = flumpy.to_numpy(table["s1"])
            by_row = np.lexsort((*s1.T, names))
            columns = {key: as_numbers(table[key])[by_row] for key in table.keys() if key != "id"}
            crystals = {e.identifier: (e.crystal.get_A(), e.scaling_model.to_dict()) for e in experiments}
            found.append((summary, columns, crystals))
    one, other = found
    if isinstance(one, str):
        assert one == other
        return
    assert one[0] == other[0]
    assert one[2] == other[2]
    assert one[1].keys() == other[1].keys()
    for key, values in one[1].items():
        np.testing.assert_array_equal(values, other[1][key], err_msg=key)
