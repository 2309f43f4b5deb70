"""All lattices at once end where one at a time does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from joined_lattices import join_lattices

from dials_postrefine.numerics.compiled import SourcesCache
from dials_postrefine.numerics.leastsquares import Restraint
from dials_postrefine.simulate.stills import StillsOptions, simulate_stills
from dials_postrefine.stills import esdkernels, fitkernels, kernels
from dials_postrefine.stills.batch import fit_batch, prepare
from dials_postrefine.stills.fits import FitSettings, Reason
from dials_postrefine.stills.lattice import fit_lattices, no_starts
from dials_postrefine.stills.model import LN_MOSAICITY, N_PARAMETERS
from dials_postrefine.stills.partiality import PROFILES

N = 24


@pytest.fixture(scope="module")
def lattices(as_stills):
    """Lattices with mosaic spread, wild intensities, and among them an empty, a tiny and a hopeless one."""
    sim = simulate_stills(replace(StillsOptions.unlike_model(n_lattices=N, seed=5), useless_fraction=0.0, d_min=2.5))
    stills = as_stills(sim)
    found = [stills.observations(k, sim.i_full[stills.rows(k)]) for k in range(N)]
    found[3] = found[3].select(np.zeros(len(found[3]), dtype=bool))
    found[7] = found[7].select(np.arange(len(found[7])) < 12)
    found[9] = replace(found[9], intensity=-found[9].intensity)
    return found


@pytest.mark.parametrize("restrained", [False, True])
@pytest.mark.parametrize("radius", ["constant", "mosaic"])
@pytest.mark.parametrize("unit_cell", ["fixed", "scale"])
@pytest.mark.parametrize("loss", ["linear", "huber", "student_t"])
def test_both_engines_reach_the_same_minimum(lattices, loss, unit_cell, radius, restrained):
    settings = FitSettings(
        profile="gaussian", loss=loss, radius=radius, unit_cell=unit_cell, step_threshold=1e-13, min_correlation=-1.0
    )
    restraint = None
    if restrained:
        restraint = Restraint(np.array([0, 1, 0, 0, -8, -7, 0.0]), np.array([np.inf, 1.0, 5e-4, 5e-4, 0.3, 0.3, 1e-3]))
    starts, scales = no_starts(N), np.full(N, np.nan)
    one = fit_lattices(lattices, settings, starts, scales, restraint)
    many = fit_batch(join_lattices(lattices), settings, starts, scales, restraint)
    assert [fit.reason for fit in one] == [fit.reason for fit in many]
    assert one[3].reason is Reason.NO_REFLECTIONS and one[9].reason is Reason.NO_SCALE
    compared = 0
    for a, b in zip(one, many):
        if a.reason is None:
            # in units of the width of the residuals where the pass before it ended
            assert b.objective == pytest.approx(a.objective, rel=1e-5)
            assert b.x == pytest.approx(a.x, rel=1e-6, abs=1e-6)
            assert np.diag(b.covariance) == pytest.approx(np.diag(a.covariance), rel=1e-4)
            compared += 1
    assert compared >= 20


def test_workers_have_nothing_left_to_compile(lattices):
    """Whatever the settings: what is compiled before processes are forked is all that there is."""
    prepare()
    everything = [value for module in (kernels, esdkernels, fitkernels) for value in vars(module).values()]
    loops = [loop for loop in everything if isinstance(getattr(loop, "_cache", None), SourcesCache)]
    assert len(loops) == 6 and all(len(loop.signatures) == 1 for loop in loops)
    for profile in PROFILES:
        for choice in ({"radius": "mosaic", "unit_cell": "scale"}, {"weighting": "unit", "loss": "linear"}):
            settings = FitSettings(profile=profile, **choice)
            fits = fit_batch(join_lattices(lattices), settings, no_starts(N), np.full(N, np.nan))
            fit_batch(join_lattices(lattices), settings, np.array([fit.x for fit in fits]), np.ones(N))
    assert all(len(loop.signatures) == 1 for loop in loops)


def test_the_mosaic_radius_describes_mosaic_crystals_better(lattices):
    fits = {
        radius: fit_batch(
            join_lattices(lattices), FitSettings(profile="gaussian", radius=radius), no_starts(N), np.full(N, np.nan)
        )
        for radius in ("constant", "mosaic")
    }
    better = [
        b.model_correlation > a.model_correlation
        for a, b in zip(*fits.values())
        if a.reason is None and b.reason is None
    ]
    assert np.mean(better) > 0.9
    eta = np.degrees(np.exp([fit.x[LN_MOSAICITY] for fit in fits["mosaic"] if fit.refined and fit.reason is None]))
    # 0.04 degrees of mosaic spread (sigma), a Gaussian's half width at half height is r_s/sqrt(2): eta = 1.67 sigma
    assert np.median(eta) == pytest.approx(0.04 * np.sqrt(2.0 * np.log(2.0)) * np.sqrt(2.0), rel=0.25)


def test_a_restraint_takes_the_place_of_data_that_are_not_there(lattices):
    few = [one.select(np.arange(len(one)) % 8 == 0) for one in lattices if len(one) > 100]
    mean = np.array([0.0, 1.0, 0.0, 0.0, np.log(2.7e-4), np.log(1.1e-3), 0.0])
    tight = Restraint(mean, np.array([np.inf, 1e-3, 1e-7, 1e-7, 1e-3, 1e-3, 1e-6]))
    settings = FitSettings(profile="gaussian", radius="mosaic", min_correlation=-1.0, reflections_per_parameter=1.0)
    fits = fit_batch(join_lattices(few), settings, no_starts(len(few)), np.full(len(few), np.nan), tight)
    x = np.array([fit.x for fit in fits if fit.reason is None])
    assert len(x) > 10
    assert x[:, 1:] == pytest.approx(np.tile(mean[1:], (len(x), 1)), abs=5e-3)
    assert x.shape[1] == N_PARAMETERS
