"""
Every two options of dials.postrefine together, on simulated stills whose intensities are known.

Whatever the options, the merged intensities must be those of the structure, most good lattices must be kept, and the
counts of log, table and JSON must add up.  What the table says must be what it has, to rounding:

    intensity.scale.value = I / (P p)        I as simulated, P the true polarisation, p of the table
    inverse_scale_factor = G exp(-B d*^2/2) r_0/sqrt(r_0^2 + (eta d*)^2)     G, B, r_0 and eta of the summary

and R against the structure may be no larger than what the single options leave, together with what the counts allow:

    R <= sqrt(R_0^2 + sum over options of max(0, R_option^2 - R_0^2)) + 3 R_counts

where R_0 is that of the defaults, R_option of one option alone, and R_counts that of the same observations corrected
and weighted by the true G, B, P and p: what is left there is the noise of the counts.  That these tests see faults is
tested by planting some.
"""

from __future__ import annotations

import copy
import json
from types import SimpleNamespace

import numpy as np
import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("cctbx", reason="the tables and experiments are those of DIALS")
pytest.importorskip("dials.array_family.flex", reason="the tables and experiments are those of DIALS")

from pairwise import all_pairs, factors, value_of

from cctbx import sgtbx
from dials.array_family import flex
from dxtbx import flumpy
from dxtbx.model.experiment_list import ExperimentList

from dials_postrefine.command_line.postrefine import run
from dials_postrefine.files.dials.symmetry import number_unique
from dials_postrefine.files.dials.versions import miller_indices_to_numpy
from dials_postrefine.settings import scope
from dials_postrefine.simulate.still_files import write_stills
from dials_postrefine.simulate.stills import StillsOptions, simulate_stills

pytestmark = [pytest.mark.dials, pytest.mark.slow]

# 77 reflections a lattice
OPTIONS = StillsOptions(
    n_lattices=40,
    seed=11,
    d_min=3.0,
    unit_cell=(50.0, 50.0, 38.0, 90.0, 90.0, 90.0),
    radius=0.0006,
    window=0.0012,
    misorientation=0.03,
)
N_USELESS_TESTS = "a threshold of rejection: the tests of the filters move it"
VARIED = {
    "reference": ("None", "truth.mtz"),
    "n_cycles": ("Auto", "1", "3"),
    "free_fraction": ("0.1", "0.2"),
    "model_error": ("0.1", "0"),
    "exponent": ("Auto", "1.2"),
    "fix": ("None", "scale", "b_factor", "theta_x+theta_y", "radius"),
    "space_group": ("None", "P43212"),
    "d_min": ("None", "3.5"),
    "d_max": ("None", "12"),
    "partiality_threshold": ("0.2", "0.5"),
    "reflections_per_parameter": ("3", "30"),
    "parameter_outlier_z": ("5", "3"),
    "outlier_z": ("6", "4"),
    "min_partial_correlation": ("0.25", "-1"),
    "seed": ("0", "1"),
}
CONSTANT = {
    "input.*": "data",
    "output.*": "names of files",
    "mp.nproc": "the number of processes changes nothing: tests/executors/test_processes.py",
    "mp.method": "how work is spread changes nothing: test_mpi.py",
    "lattice_plots": "what is drawn",
    "n_shells": "the rows of tables",
    "polarization_fraction": "what the corrections are made of: tests/programs/test_stills_recording.py",
    "convergence": "when the cycles end, as n_cycles says",
    "reference_model.*": "of atomic models, which test_atomic_reference.py has",
    "min_correlation": N_USELESS_TESTS,
    "min_reflections": N_USELESS_TESTS,
    "max_misorientation": N_USELESS_TESTS,
    "max_b_factor": N_USELESS_TESTS,
    "filtering.unit_cell.*": N_USELESS_TESTS,
    "filtering.significance_filter.n_bins": "a threshold of a filter that is switched on and off",
    "filtering.significance_filter.min_ct": "a threshold of a filter that is switched on and off",
    "filtering.significance_filter.sigma": "a threshold of a filter that is switched on and off",
    "filtering.deltacchalf.*": "a threshold of a filter that is switched on and off",
}
LEFT_OUT = {"intensity_choice=profile": "stills have no profile-fitted intensities"}
FACTORS = factors(scope.load("postrefine"), VARIED, CONSTANT, LEFT_OUT)
ROWS = all_pairs(FACTORS)


def defaults() -> set[str]:
    """ "path=value" of every option of the table as it is by itself; of VARIED the first value is that."""
    found = {f"{path}={values[0]}" for path, values in VARIED.items()}
    for definition in scope.load("postrefine").all_definitions():
        words = [word.value for word in definition.object.words]
        chosen = [word[1:] for word in words if word.startswith("*")] or words
        found.add(f"{definition.path}={chosen[0]}")
    return found


DEFAULTS = defaults()
COUNTS = 3.0  # times R_counts


@pytest.fixture(scope="module")
def simulated():
    return simulate_stills(OPTIONS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, simulated):
    path = tmp_path_factory.mktemp("pairs")
    write_stills(simulated, path / "stills")
    (path / "stills_truth.mtz").rename(path / "truth.mtz")
    return path


@pytest.fixture(scope="module")
def postrefine(folder, tmp_path_factory):
    """A function: options -> the summary, the table and the experiments of a run."""

    def postrefine(options):
        arguments = [
            f"reference={folder / 'truth.mtz'}" if item == "reference=truth.mtz" else item
            for item in options
            if item != "fix=None"
        ]
        names = {"json": "json", "reflections": "out.refl", "experiments": "out.expt", "log": "log"}
        out = tmp_path_factory.mktemp("run")
        given = [f"output.{key}={out / name}" for key, name in names.items()]
        files = [str(folder / "stills.expt"), str(folder / "stills.refl")]
        run([*files, *arguments, *given, "nproc=1", "output.html=None"])
        with open(out / "json") as file:
            summary = json.load(file)
        table = flex.reflection_table.from_file(str(out / "out.refl"))
        experiments = ExperimentList.from_file(str(out / "out.expt"), check_format=False)
        return SimpleNamespace(summary=summary, table=table, experiments=experiments)

    return postrefine


@pytest.fixture(scope="module")
def single_r(postrefine, simulated):
    """A function: an option, None for none -> R of that option alone."""
    known = {}

    def single(option):
        if option not in known:
            known[option] = r_of(to_merge(postrefine([option] if option else []), simulated), simulated)
        return known[option]

    return single


def to_merge(result, simulated):
    """Of the observations that are to be merged: value, weight, row of the truth, and what the table has of each."""
    table = result.table
    kept = table.select(table.get_flags(table.flags.scaled))
    kept = kept.select(~kept.get_flags(kept.flags.bad_for_scaling, all=False))
    number = {name: k for k, name in enumerate(simulated.identifiers)}
    names = {k: number[name] for k, name in zip(*map(list, zip(*identifiers(kept))))}
    place = {key: i for i, key in enumerate(zip(simulated.lattice.tolist(), map(tuple, simulated.h.tolist())))}
    h = miller_indices_to_numpy(kept["miller_index"])
    row = np.array([place[names[k], tuple(index)] for k, index in zip(kept["id"], h.tolist())])
    factor = np.array(kept["inverse_scale_factor"])
    return SimpleNamespace(
        row=row,
        id=np.array(kept["id"]),
        scaled=np.array(kept["intensity.scale.value"]),
        factor=factor,
        value=np.array(kept["intensity.scale.value"]) / factor,
        weight=factor**2 / np.array(kept["intensity.scale.variance"]),
        partiality=np.array(kept["partiality"]),
        d=np.array(kept["d"]),
    )


def identifiers(table):
    names = table.experiment_identifiers()
    return [(int(k), names[k]) for k in names.keys()]


def r_of(merge, simulated) -> float:
    """R of the weighted means against the structure."""
    return r_factor(merge.value, merge.weight, simulated.asu[merge.row], simulated.reference_intensity)


def r_factor(value, weight, unique, truth) -> float:
    n = len(truth)
    total = np.bincount(unique, weight, n)
    seen = total > 0.0
    mean, expected = np.bincount(unique, weight * value, n)[seen] / total[seen], truth[seen]
    k = (mean @ expected) / (expected @ expected)
    return np.abs(mean / k - expected).sum() / expected.sum()


def r_of_counts(merge, simulated) -> float:
    """R of the same observations corrected by what is true of them."""
    row = merge.row
    lattice = simulated.lattice[row]
    factor = simulated.scale[lattice] * np.exp(-2.0 * simulated.b_factor[lattice] / simulated.d[row] ** 2)
    factor *= simulated.polarisation[row] * simulated.partiality[row]
    weight = factor**2 / simulated.variance[row]
    return r_factor(simulated.intensity[row] / factor, weight, simulated.asu[row], simulated.reference_intensity)


def check_columns(result, simulated) -> None:
    """The table has what it says (module docstring)."""
    merge = to_merge(result, simulated)
    corrected = simulated.intensity[merge.row] / simulated.polarisation[merge.row]
    np.testing.assert_allclose(merge.scaled * merge.partiality, corrected, rtol=1e-4, atol=1e-3)
    lattices = {one["identifier"]: one for one in result.summary["lattices"]}
    own = {k: lattices[name] for k, name in identifiers(result.table)}
    names = ("scale", "b_factor", "radius", "mosaicity")
    scale, b, radius, eta = (np.array([own[k][name] for k in merge.id]) for name in names)
    # the factor is of the resolution as indexed, d of the refined cell
    d = merge.d * (1.0 + np.array([own[k].get("cell_scale") or 0.0 for k in merge.id]))
    height = radius / np.hypot(radius, np.radians(eta) / d)
    np.testing.assert_allclose(merge.factor, scale * np.exp(-0.5 * b / d**2) * height, rtol=1e-3)


def check_truth(result, simulated, row, single_r) -> None:
    """R against the structure is what the single options and the counts leave (module docstring)."""
    merge = to_merge(result, simulated)
    r, r_0 = r_of(merge, simulated), single_r(None)
    excess = [max(0.0, single_r(option) ** 2 - r_0**2) for option in changed_options(row)]
    bound = np.sqrt(r_0**2 + sum(excess)) + COUNTS * r_of_counts(merge, simulated)
    assert r <= bound, f"R {r:.3f} is above {bound:.3f}: {' '.join(row)}"


def check_parameters(result, simulated, row) -> None:
    """
    G, B and the angles that were refined do not go against the true ones: CC not below -3/sqrt(n), as chance.

    (Not all options let them be found: with few reflections a parameter only the scale is refined.)
    """
    number = {name: k for k, name in enumerate(simulated.identifiers)}
    lattices = [one for one in result.summary["lattices"] if one["accepted"]]
    place = [number[one["identifier"]] for one in lattices]
    fixed = value_of(row, "fix") if row else "None"
    for name in ("scale", "b_factor", "theta_x", "theta_y"):
        if name in fixed:
            continue
        found, true = np.array([one[name] for one in lattices]), getattr(simulated, name)[place]
        if name == "scale":
            found, true = np.log(found), np.log(true)
        cc = np.corrcoef(found, true)[0, 1] if np.ptp(found) > 0.0 else 0.0
        assert not cc < -3.0 / np.sqrt(len(place)), f"{name} goes against the truth, CC {cc:.2f}: {' '.join(row)}"


def changed_options(row):
    """The options of a row that are not the defaults and may change an intensity."""
    return [item for item in row if item not in DEFAULTS]


@pytest.mark.parametrize("row", ROWS, ids=[str(i) for i in range(len(ROWS))])
def test_every_pair_of_options_gives_the_intensities_of_the_structure(row, folder, simulated, postrefine, single_r):
    result = postrefine(row)
    summary, table = result.summary, result.table
    dataset, merge = summary["dataset"], to_merge(result, simulated)

    # counts
    assert dataset["n_lattices"] == OPTIONS.n_lattices == dataset["n_accepted"] + sum(summary["rejected"].values())
    assert len(result.experiments) == dataset["n_accepted"] == sum(one["accepted"] for one in summary["lattices"])
    assert len(merge.row) == dataset["n_merged"] == summary["after"][-1]["n_observations"]
    h_merged, group = simulated.h[merge.row], sgtbx.space_group_info(OPTIONS.space_group).group()
    n_unique = len(number_unique(h_merged, group, dataset["anomalous"])[1])
    assert n_unique == summary["after"][-1]["n_unique"]
    n_input = len(simulated.h)
    assert dataset["n_observations"] + sum(dataset["not_used"].values()) == n_input
    counted = summary["reference_observations"]
    assert (counted is None) == (value_of(row, "reference") == "None")
    if counted is not None:
        assert counted["n_input"] == len(simulated.reference_h) == counted["n_merged"]

    # no good lattice or observation goes without need
    assert dataset["n_accepted"] >= 0.9 * OPTIONS.n_lattices
    d = np.array(table["d"])
    low, high = (value_of(row, name) for name in ("d_min", "d_max"))
    limits = 0.0 if low == "None" else float(low), np.inf if high == "None" else float(high)
    assert all(limits[0] <= x <= limits[1] for x in d[np.array(table.get_flags(table.flags.scaled))])

    check_columns(result, simulated)
    check_parameters(result, simulated, row)
    check_truth(result, simulated, row, single_r)


@pytest.fixture(scope="module")
def right(postrefine):
    return postrefine([])


def changed(result, change):
    """A copy of a result with change(columns of the table as arrays, lattices of the summary by identifier) done."""
    table, summary = result.table.copy(), copy.deepcopy(result.summary)
    names = ("intensity.scale.value", "intensity.scale.variance", "inverse_scale_factor", "partiality", "d", "id")
    columns = {name: np.array(table[name]) for name in names}
    lattices = {one["identifier"]: one for one in summary["lattices"]}
    change(columns, {k: lattices[name] for k, name in identifiers(table)})
    for name in names[:4]:
        table[name] = flumpy.from_numpy(columns[name])
    return SimpleNamespace(table=table, summary=summary, experiments=result.experiments)


def not_divided_by_p(columns, _):
    columns["intensity.scale.value"] *= columns["partiality"]


def p_taken_for_one(columns, _):
    """The same, and the table says so: no column contradicts another."""
    columns["intensity.scale.value"] *= columns["partiality"]
    columns["intensity.scale.variance"] *= columns["partiality"] ** 2
    columns["partiality"][:] = 1.0


def p_applied_twice(columns, _):
    columns["intensity.scale.value"] /= columns["partiality"]


def polarised_twice(columns, _):
    """As a factor that grows with the angle, 10 % at the limit."""
    columns["intensity.scale.value"] *= 1.0 + 0.9 / columns["d"] ** 2


def sign_of_b(columns, lattices):
    b = np.array([lattices[k]["b_factor"] for k in columns["id"]])
    columns["inverse_scale_factor"] *= np.exp(b / columns["d"] ** 2)


def sign_of_b_everywhere(columns, lattices):
    """The same, and the summary has it, too."""
    sign_of_b(columns, lattices)
    for one in lattices.values():
        one["b_factor"] *= -1.0


def scale_of_the_neighbour(columns, lattices):
    """Each lattice has the G of the next one, in table and summary."""
    scales = np.array([one["scale"] for one in lattices.values()])
    ratio = np.roll(scales, 1) / scales
    place = {k: i for i, k in enumerate(lattices)}
    columns["inverse_scale_factor"] *= ratio[[place[k] for k in columns["id"]]]
    for one, r in zip(lattices.values(), ratio):
        one["scale"] *= r


FAULTS = {  # and which of the tests sees them
    not_divided_by_p: "columns",
    p_applied_twice: "columns",
    polarised_twice: "columns",
    sign_of_b: "columns",
    p_taken_for_one: "truth",
    sign_of_b_everywhere: "parameters",
    scale_of_the_neighbour: "truth",
}


def failures(result, simulated, single_r) -> set[str]:
    """Which of the tests a result of the defaults fails."""
    checks = {
        "columns": lambda: check_columns(result, simulated),
        "parameters": lambda: check_parameters(result, simulated, []),
        "truth": lambda: check_truth(result, simulated, [], single_r),
    }
    found = set()
    for name, check in checks.items():
        try:
            check()
        except AssertionError:
            found.add(name)
    return found


@pytest.mark.parametrize("fault", [None, *FAULTS], ids=lambda fault: fault.__name__ if fault else "none")
def test_planted_faults_are_seen(right, simulated, single_r, fault):
    if fault is None:
        assert not failures(right, simulated, single_r)
    else:
        assert FAULTS[fault] in failures(changed(right, fault), simulated, single_r)
