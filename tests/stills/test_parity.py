"""
The fit is that of code we did not write: scipy's least squares, and cctbx.xfel.merge's postrefinement_rs.

postrefinement_rs runs unchanged, from its own start values.  Only what Debian's cctbx lacks or what needs several
processes is replaced while it is imported and run: an extension module that nothing here calls, the MPI helper and the
logger.  Its parameters are v = (G, B, r_s, theta_x, theta_y).
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import sys
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.optimize import least_squares

from dials_postrefine.numerics.indices import to_flex_miller
from dials_postrefine.numerics.leastsquares import Iterations, Objective, minimise
from dials_postrefine.numerics.robust import LOSSES
from dials_postrefine.numerics.rotations import rotate
from dials_postrefine.simulate.still_files import make_experiments
from dials_postrefine.simulate.stills import StillsOptions, simulate_stills
from dials_postrefine.stills.fits import FitSettings
from dials_postrefine.stills.geometry import excitation
from dials_postrefine.stills.lattice import fit_lattices, no_starts, start_values
from dials_postrefine.stills.model import (
    LN_NOTHING,
    LN_RADIUS,
    MODELS,
    THETA_X,
    THETA_Y,
    Observations,
    calculate,
    calculate_with_jacobian,
    partiality,
    rounds,
    scale_factor,
)

pytestmark = pytest.mark.dials


def weighted(observations: Observations, profile: str, weight: np.ndarray):
    """The residuals u of a lattice and du/dx as a function of x, as minimise takes it."""

    def evaluate(x):
        y, jacobian = calculate_with_jacobian(x, observations, profile)
        return weight * (y - observations.intensity), weight[:, None] * jacobian

    return evaluate


# scipy ---------------------------------------------------------------------------------------------------------------

NU = 4.0


def student_t(z):
    """rho, rho' and rho'' of (nu + 1) ln(1 + z/nu), as scipy takes them: shape (3, n)."""
    return (NU + 1.0) * np.array([np.log1p(z / NU), 1.0 / (NU + z), -1.0 / (NU + z) ** 2])


SCIPY_LOSSES = {
    "linear": {"loss": "linear"},
    "huber": {"loss": "huber", "f_scale": 1.345},
    "student_t": {"loss": student_t},
}
# scipy refines x in these units, which make its three-point differences fit the angles: it gets no derivative of ours
UNITS = np.array([1.0, 1.0, 1e-3, 1e-3, 1.0, 1.0])


def by_scipy(evaluate, x, free, loss, **options):
    """scipy's minimum over the free parameters: all of x, the inverse of its J^T J (free ones), the objective."""

    def of_free(y):
        trial = x.copy()
        trial[free] = y * UNITS[free]
        return evaluate(trial)[0]

    found = least_squares(
        of_free,
        x[free] / UNITS[free],
        jac="3-point",
        x_scale="jac",
        **{"xtol": 1e-15, "ftol": 1e-15, "gtol": 1e-15, "max_nfev": 1000, **SCIPY_LOSSES[loss], **options},
    )
    minimum = x.copy()
    minimum[free] = found.x * UNITS[free]
    return minimum, np.linalg.inv(found.jac.T @ found.jac) * np.outer(UNITS[free], UNITS[free]), found.cost


@pytest.fixture(scope="module", params=["lorentzian", "gaussian"])
def lattices(request, as_stills):
    """
    Four lattices with one wild intensity in a hundred: start x, the function of `weighted`, norm.

    Not of the hard sphere: its target has a kink wherever a reflection crosses the edge, and many minima.
    """
    profile = request.param
    sim = simulate_stills(StillsOptions(n_lattices=4, seed=3, d_min=2.5, wild_fraction=0.01, profile=profile))
    stills = as_stills(sim)
    cases = []
    for k in range(4):
        observations = stills.observations(k, sim.i_full[stills.rows(k)])
        x = start_values(observations, FitSettings(profile=profile))
        weight = 1.0 / np.sqrt(observations.variance + (0.1 * calculate(x, observations, profile)) ** 2)
        norm = float(np.sum((weight * observations.intensity) ** 2))
        cases.append((x, weighted(observations, profile, weight), norm))
    return cases


@pytest.mark.parametrize("loss", SCIPY_LOSSES)
def test_objective_is_the_cost_of_scipy(lattices, loss):
    rng = np.random.default_rng(1)
    for x, evaluate, _ in lattices:
        for _ in range(3):
            trial = x + rng.normal(size=7) * (0.3, 1.0, 1e-3, 1e-3, 0.3, 0.0, 0.0)
            u = evaluate(trial)[0]
            assert 0 < np.count_nonzero(np.abs(u) < 1.345) < len(u)
            ours = 0.5 * np.sum(LOSSES[loss](u * u)[0])
            assert ours == pytest.approx(by_scipy(evaluate, trial, [0], loss, max_nfev=1)[2], rel=1e-13)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("loss", SCIPY_LOSSES)
def test_minimum_is_that_of_scipy(lattices, loss, model):
    free = list(range(len(rounds(model, "constant")[-1])))
    for x, evaluate, norm in lattices:
        expected, inverse, cost = by_scipy(evaluate, x, free, loss)
        esd = np.sqrt(np.diag(inverse))
        assert np.abs((expected - x)[free] / esd).max() > 1.0  # there was something to find

        # e esds off the minimum the cost is higher by e^2/2: rounding, 1e-15 of a cost of up to 5e4, hides 1e-5 esds
        tight = minimise(Objective(evaluate, loss, norm=norm), x, free, iterations=Iterations(200, 1e-10))
        assert np.abs((tight.x - expected)[free] / esd).max() < 1e-4
        assert tight.objective == pytest.approx(cost, rel=1e-12)

        # and as it is called: to a hundredth of an esd
        default = minimise(Objective(evaluate, loss, norm=norm), x, free)
        assert np.abs((default.x - expected)[free] / esd).max() < 1e-2
        assert default.objective - cost < 1e-4


def test_sandwich_with_the_right_weights_is_the_classical_covariance_but_for_leverage(as_stills, truth_of):
    sim = simulate_stills(StillsOptions(n_lattices=300, seed=2, d_min=2.5))
    stills = as_stills(sim)
    excess = []
    for k, truth in enumerate(truth_of(sim)):
        observations = stills.observations(k, sim.i_full[stills.rows(k)])
        evaluate = weighted(observations, "lorentzian", 1.0 / np.sqrt(observations.variance))
        minimum = minimise(Objective(evaluate), truth, list(range(5)))
        u, jacobian = evaluate(minimum.x)
        jacobian = jacobian[:, :5]  # no mosaicity
        normal = jacobian.T @ jacobian
        classical = np.diag(np.linalg.inv(normal)) * (u @ u) / (len(u) - 5)
        # u_i^2 has the expectation 1 - h_i and enters divided by (1 - h_i)^2: so has the ratio of the two
        lever = np.linalg.solve(normal, jacobian.T) ** 2  # (5, n)
        h = np.sum(np.linalg.qr(jacobian)[0] ** 2, axis=1)
        expected = (lever / (1.0 - h)).sum(axis=1) / lever.sum(axis=1)
        excess.append(np.diag(minimum.covariance)[:5] / classical - expected)
    error = np.std(excess, axis=0) / np.sqrt(len(excess))
    assert np.all(error < 0.05)  # 300 lattices tell 1.1 from 1
    assert np.all(np.abs(np.mean(excess, axis=0)) < 4.0 * error)


# cctbx.xfel.merge ----------------------------------------------------------------------------------------------------

N = 20
XFEL = "xfel.merging.application."


class OneRank:
    """What the worker asks of its MPI helper, for one process."""

    rank = 0
    MPI = SimpleNamespace(SUM="sum", MIN="min", MAX="max")
    comm = SimpleNamespace(reduce=lambda value, operation, root=0: value, allreduce=lambda value, operation: value)

    def sum(self, value, root=0):
        return value

    def set_error(self, message):
        raise AssertionError(message)

    def check_errors(self):
        pass


class NoLog:
    """What the worker asks of its logger."""

    def __init__(self, *args):
        pass

    def log(self, *args):
        pass

    main_log = log_step_time = log


@pytest.fixture(scope="module")
def xfel_rs():
    """The module postrefinement_rs, with stand-ins (module docstring) that are gone afterwards."""
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:

        def stand_in(name, **members):
            patch.setitem(sys.modules, name, ModuleType(name))
            vars(sys.modules[name]).update(members)

        if importlib.util.find_spec("sx_merging_ext") is None:
            stand_in("sx_merging_ext")
        stand_in(XFEL + "mpi_helper", mpi_helper=OneRank)
        stand_in(XFEL + "mpi_logger", mpi_logger=NoLog)
        try:
            yield importlib.import_module(XFEL + "postrefine.postrefinement_rs")
        except ImportError as error:
            pytest.skip(f"this cctbx has no usable postrefinement_rs: {error}")
        finally:
            for name in set(sys.modules) - before:
                if name.split(".")[0] == "xfel":  # so that nobody else meets the stand-ins in them
                    del sys.modules[name]


def as_v(x) -> np.ndarray:
    """Its parameters v from ours."""
    return np.array([np.exp(x[0]), x[1], np.exp(x[LN_RADIUS]), x[THETA_X], x[THETA_Y]])


def as_x(v) -> np.ndarray:
    """Our parameters x from its."""
    return np.array([np.log(v[0]), v[1], v[3], v[4], np.log(v[2]), LN_NOTHING, 0.0])


@dataclass
class Pair:
    """One lattice: what we fit, and its refinery, start v and v at the end of its run."""

    observations: Observations
    refinery: Any
    start: np.ndarray
    end: np.ndarray
    module: Any

    def values(self, v):
        from dials.array_family import flex

        return self.module.rs_parameterization(flex.double(v))

    def residuals(self, v) -> np.ndarray:
        """Its I_calc - I_obs."""
        return self.refinery.fvec_callable(self.values(v)).as_numpy_array()

    def target(self, v) -> float:
        """Its target."""
        return float(np.sum(self.residuals(v) ** 2))

    def minimise(self, v, fix=("RS",), **options) -> np.ndarray:
        """Where its minimiser ends from v."""
        from dials.array_family import flex

        params = SimpleNamespace(postrefinement=SimpleNamespace(algorithm="rs", rs=SimpleNamespace(fix=fix)))
        minimiser = self.module.lbfgs_minimizer_base(
            params,
            current_x=flex.double(v),
            parameterization=self.module.rs_parameterization,
            refinery=self.refinery,
            out=io.StringIO(),
            **options,
        )
        return np.array(minimiser.x)

    def esd(self, v) -> np.ndarray:
        """Least-squares esds of G, B, theta_x, theta_y, from central differences of its residuals."""
        steps = np.diag([1e-5 * v[0], 1e-4, 0.0, 1e-7, 1e-7])[[0, 1, 3, 4]]
        columns = [(self.residuals(v + step) - self.residuals(v - step)) / (2.0 * step.sum()) for step in steps]
        normal = np.array(columns) @ np.transpose(columns)
        return np.sqrt(np.diag(np.linalg.inv(normal)) * self.target(v) / (len(self.observations) - 4))


@dataclass
class Run:
    """A run of postrefinement_rs: a pair for each lattice, and the table that it returned."""

    pairs: list[Pair]
    identifiers: list[str]
    reflections: Any


@pytest.fixture(scope="module")
def run(xfel_rs, as_stills):
    """postrefinement_rs.run() on N noisy lattices along with the same data as our arrays."""
    from cctbx import crystal, miller
    from dials.array_family import flex

    # its beam is along -z whatever the experiment says, hence no tilt
    options = StillsOptions(
        n_lattices=N, seed=11, d_min=2.5, misorientation=0.05, wavelength_jitter=0.002, beam_tilt=0.0
    )
    sim = simulate_stills(options)
    stills = as_stills(sim)
    experiments = make_experiments(sim)

    symmetry = crystal.symmetry(unit_cell=options.unit_cell, space_group_symbol=options.space_group)
    reference = miller.array(
        miller.set(symmetry, to_flex_miller(sim.reference_h), anomalous_flag=False),
        data=flex.double(sim.reference_intensity),
        sigmas=flex.double(len(sim.reference_intensity), 1.0),
    )
    reflections = flex.reflection_table()
    reflections["miller_index"] = to_flex_miller(sim.h)
    reflections["miller_index_asymmetric"] = (
        miller.set(symmetry, reflections["miller_index"], anomalous_flag=False).map_to_asu().indices()
    )
    for ending in ("", ".unmodified"):
        reflections["intensity.sum.value" + ending] = flex.double(stills.intensity)
        reflections["intensity.sum.variance" + ending] = flex.double(stills.variance)
    reflections["exp_id"] = flex.std_string([sim.identifiers[k] for k in sim.lattice])
    params = SimpleNamespace(
        postrefinement=SimpleNamespace(enable=True, algorithm="rs", rs=SimpleNamespace(fix=["RS"])),
        scaling=SimpleNamespace(
            algorithm="mark0",
            i_model=reference,
            miller_set=reference.set(),
            unit_cell=symmetry.unit_cell(),
            space_group=symmetry.space_group_info(),
        ),
        merging=SimpleNamespace(merge_anomalous=True),
        output=SimpleNamespace(log_level=1),
    )
    pairs = []

    class Recorded(xfel_rs.postrefinement_rs):
        """The worker, which keeps nothing of a lattice itself."""

        def run_plain(self):
            start = np.array(self.current)
            super().run_plain()
            k = len(pairs)
            observations = stills.observations(k, sim.i_full[stills.rows(k)])
            pairs.append(Pair(observations, self.refinery, start, np.array(self.MINI.x), xfel_rs))

    kept, scaled = Recorded(params).run(experiments, reflections)
    assert len(pairs) == len(kept) == N  # it caught no error and rejected nothing
    return Run(pairs, sim.identifiers, scaled)


@pytest.fixture(scope="module")
def fits(run):
    """v of our fits of the same target."""
    settings = FitSettings(model="rs", profile="lorentzian", weighting="unit", loss="linear")
    n = len(run.pairs)
    fitted = fit_lattices([pair.observations for pair in run.pairs], settings, no_starts(n), np.full(n, np.nan))
    assert [fit.reason for fit in fitted] == [None] * N
    return [as_v(fit.x) for fit in fitted]


def test_it_got_our_data_and_starts_from_the_rms_of_r_h(run):
    for pair in run.pairs:
        assert np.array_equal(pair.refinery.IOBSVEC, pair.observations.intensity)
        assert np.array_equal(pair.refinery.ICALCVEC, pair.observations.reference)
        slope = np.polyfit(pair.observations.reference, pair.observations.intensity, 1)[0]
        ours = np.exp(start_values(pair.observations, FitSettings(profile="lorentzian"))[LN_RADIUS])
        assert pair.start == pytest.approx([slope, 0.0, ours, 0.0, 0.0], rel=1e-9)


def random_v(rng) -> np.ndarray:
    angles = rng.uniform(-5e-3, 5e-3, size=2)
    return np.array([rng.uniform(0.1, 10.0), rng.uniform(-10.0, 10.0), rng.uniform(1e-4, 1e-3), *angles])


def test_r_h_is_its_r_h(run):
    rng = np.random.default_rng(5)
    for pair in run.pairs:
        v = random_v(rng)
        o = pair.observations
        ours = excitation(o.q, o.q_sq, o.s0, rotate(v[3], v[4]))
        # it subtracts two lengths near 0.8
        assert ours == pytest.approx(pair.refinery.get_Rh_array(pair.values(v)).as_numpy_array(), rel=0, abs=5e-15)
        assert np.ptp(ours) > 1e-3


def test_calculated_intensities_are_its_intensities(run):
    rng = np.random.default_rng(6)
    for pair in run.pairs:
        v = random_v(rng)
        ours = calculate(as_x(v), pair.observations, "lorentzian")
        theirs = pair.refinery.scaler_callable(pair.values(v)) * pair.refinery.ICALCVEC
        assert ours == pytest.approx(theirs.as_numpy_array(), rel=1e-10, abs=0)
        u = weighted(pair.observations, "lorentzian", np.ones(len(ours)))(as_x(v))[0]
        np.testing.assert_allclose(pair.residuals(v), u, rtol=0, atol=1e-10 * np.abs(ours).max())


def test_our_target_is_never_above_that_of_its_run(run, fits):
    for pair, v in zip(run.pairs, fits):
        assert v[2] == pytest.approx(pair.end[2], rel=1e-12)  # r_s, which both leave alone
        assert pair.target(pair.end) < 0.9 * pair.target(pair.start)
        assert pair.target(v) <= pair.target(pair.end) * (1.0 + 1e-9)


def test_its_minimiser_finds_nothing_below_our_minimum(run, fits):
    for pair, v in zip(run.pairs, fits):
        assert pair.target(pair.minimise(v)) >= pair.target(v) * (1.0 - 1e-9)


def test_its_minimiser_continued_to_convergence_ends_at_our_minimum(run, fits):
    """
    It stops where the target falls slowly, which in parameters of such different scales can be tens of esds too early.

    Here the same minimiser goes on, in turn with G and B, with the angles and with all of them, until nothing moves.
    Its gradient is a forward difference of step 1e-7, zero half a step before the minimum: 5e-8 rad in an angle, whose
    esd is 7e-6 rad at the least.
    """
    blocks = (("RS", "thetax", "thetay"), ("RS", "G", "BFACTOR"), ("RS",))
    for pair, ours in zip(run.pairs, fits):
        v, target, last = pair.end, pair.target(pair.end), np.inf
        while target < last * (1.0 - 1e-12):
            last = target
            for fix in blocks:
                trial = pair.minimise(v, fix, max_drop_eps=0.0)
                if pair.target(trial) < target:
                    v, target = trial, pair.target(trial)
        off = np.abs(v - ours)[[0, 1, 3, 4]] / pair.esd(ours)
        assert off.max() < 0.01
        # the target rises by sigma^2 = target/(n - 4) for each squared esd
        assert 1.0 - 1e-9 <= target / pair.target(ours) < 1.0 + 4 * 0.01**2 / (len(pair.observations) - 4)


def test_scaled_intensities_are_those_that_it_writes(run):
    table = run.reflections
    for identifier, pair in zip(run.identifiers, run.pairs):
        x = as_x(pair.end)
        p = partiality(x, pair.observations, "lorentzian")
        kept = p > 0.2
        assert 0 < np.count_nonzero(kept) < len(p)
        scaled = pair.observations.intensity / (scale_factor(x, pair.observations.q_sq) * p)
        written = table.select(table["exp_id"] == identifier)["intensity.sum.value"].as_numpy_array()
        assert written == pytest.approx(scaled[kept], rel=1e-10)
