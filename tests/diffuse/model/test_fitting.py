"""The fit, its standard deviations, orbits and held-out voxels, the choice of a model, and the indexing of a map."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pair_sums import P212121, make_atoms, make_voxels

from dials_postrefine.diffuse.model import CannotModel, reindexing
from dials_postrefine.diffuse.model.agreement import anisotropic_correlation, anisotropic_part
from dials_postrefine.diffuse.model.background import background_functions
from dials_postrefine.diffuse.model.comparison import choose, held_out_squares, preference
from dials_postrefine.diffuse.model.fitting import Problem, fit, fit_background, join_equivalents
from dials_postrefine.diffuse.model.parameters import Parameter
from dials_postrefine.diffuse.model.rigid_body import RigidBody
from dials_postrefine.diffuse.model.voxels import hold_out, orbits_of


@pytest.fixture(scope="module")
def rigid():
    atoms = make_atoms()
    voxels = make_voxels(atoms, n=3000)
    return RigidBody([atoms], voxels), voxels


def observed(rigid, random, noise=0.05):
    """Voxels with the intensity of sigma 0.3, scale 2.5, a background, and noise."""
    model, voxels = rigid
    true = 2.5 * model.evaluate(np.array([0.3]))[0] + 800.0 * np.exp(-2.0 * voxels.s)
    sigma = noise * np.sqrt(true * true.mean())
    return replace(voxels, intensity=true + sigma * random.normal(size=len(true)), sigma=sigma)


def test_standard_deviations_are_those_of_repeated_experiments(rigid):
    model, voxels = rigid
    functions, random = background_functions(voxels.s, "smooth", 6), np.random.default_rng(1)
    fits = [fit(model, Problem(observed(rigid, random), functions, np.ones(len(voxels), bool))) for _ in range(40)]
    values, esds = np.array([one.values[0] for one in fits]), np.array([one.esds[0] for one in fits])
    assert abs(values.mean() - 0.3) < 3.0 * values.std() / np.sqrt(40)
    assert 0.75 < values.std() / esds.mean() < 1.25
    assert np.mean([one.chi_sq for one in fits]) == pytest.approx(1.0, abs=0.02)
    assert np.mean([one.scale for one in fits]) == pytest.approx(2.5, rel=0.05)
    assert all(one.converged and not one.undetermined for one in fits)


def test_a_held_scale_determines_the_motion(rigid):
    """The standard deviations are those of repeated experiments, and smaller than with the scale fitted."""
    model, voxels = rigid
    functions, random = background_functions(voxels.s, "smooth", 6), np.random.default_rng(7)
    used, fits = np.ones(len(voxels), bool), []
    for _ in range(30):
        data = observed(rigid, random)
        fits.append([fit(model, Problem(data, functions, used, scale=k)) for k in (2.5, None)])
    values = np.array([[one.values[0] for one in pair] for pair in fits])
    esds = np.array([[one.esds[0] for one in pair] for pair in fits])
    assert (np.abs(values.mean(axis=0) - 0.3) < 3.0 * values.std(axis=0) / np.sqrt(30)).all()
    assert (np.abs(values.std(axis=0) / esds.mean(axis=0) - 1.0) < 0.3).all() and (esds[:, 0] < 0.5 * esds[:, 1]).all()
    assert all(held.scale == 2.5 and held.scale_esd == 0.0 and held.correlations.shape == (1, 1) for held, _ in fits)


class OneNumber:
    """An intensity k sigma^2 g(q): scale and sigma are one number."""

    name = "one"

    def __init__(self, g: np.ndarray):
        self.g, self.parameters = g, (Parameter("sigma", 0.3, 0.005, 2.0),)

    def evaluate(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return values[0] ** 2 * self.g, 2.0 * values * self.g[None]


class Isotropic(OneNumber):
    """What a background has, too, and sigma^2 changes nothing else."""

    def evaluate(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.g, np.zeros((1, len(self.g)))


def test_what_the_map_does_not_tell_has_large_standard_deviations(rigid):
    """k sigma^2 alone is determined; with k held sigma is; and of a model that is background neither."""
    model, voxels = rigid
    functions, random = background_functions(voxels.s, "smooth", 6), np.random.default_rng(12)
    data, used = observed(rigid, random, 0.02), np.ones(len(voxels), bool)
    one = OneNumber(model.evaluate(np.array([0.3]))[0] / 0.09)
    found = fit(one, Problem(data, functions, used))
    assert found.undetermined == ["sigma"] and found.esds[0] > found.values[0] and found.scale_esd > found.scale
    assert found.correlations[0, 1] == pytest.approx(-1.0, abs=1e-3)
    held = fit(one, Problem(data, functions, used, scale=2.5))
    assert not held.undetermined and abs(held.values[0] - 0.3) < 3.0 * held.esds[0] < 0.01
    isotropic = fit(Isotropic(800.0 * functions[1]), Problem(data, functions, used))
    assert isotropic.undetermined == ["sigma"] and isotropic.scale_esd > 100.0 * abs(isotropic.scale)


def test_correlated_misfit_makes_standard_deviations_larger(rigid):
    """What is wrong for blocks of voxels together counts as few observations, not as many."""
    model, voxels = rigid
    functions, random = background_functions(voxels.s, "smooth", 6), np.random.default_rng(2)
    block, values, esds = voxels.blocks, [], []
    for _ in range(30):
        data = observed(rigid, random, 0.02)
        data = replace(data, intensity=data.intensity * (1.0 + 0.1 * random.normal(size=block.max() + 1)[block]))
        found = fit(model, Problem(data, functions, np.ones(len(voxels), bool)))
        values.append(found.values[0])
        esds.append(found.esds[0])
    assert 0.6 < np.std(values) / np.mean(esds) < 1.5


def test_outliers_do_little_to_a_robust_fit(rigid):
    model, voxels = rigid
    functions, data = background_functions(voxels.s, "smooth", 6), observed(rigid, np.random.default_rng(3))
    wrong = data.intensity.copy()
    wrong[::50] *= 3.0
    data, used = replace(data, intensity=wrong), np.ones(len(voxels), bool)
    robust, plain = (fit(model, Problem(data, functions, used, flag)).values[0] for flag in (True, False))
    assert abs(robust - 0.3) < 0.5 * abs(plain - 0.3)


def test_the_background_is_chosen_for_noise_and_the_model_for_its_own(rigid):
    model, voxels = rigid
    functions, random = background_functions(voxels.s, "smooth", 6), np.random.default_rng(4)
    used = ~voxels.held_out
    for true, wanted in ((0.0, 0), (1.0, 1)):
        intensity = true * model.evaluate(np.array([0.3]))[0] + 100.0 + 10.0 * random.normal(size=len(voxels))
        data = replace(voxels, intensity=intensity, sigma=np.full(len(voxels), 10.0))
        problem = Problem(data, functions, used)
        squares = [
            held_out_squares(data.intensity, one.calculated, one.variance)[~used]
            for one in (fit_background(problem), fit(model, problem))
        ]
        assert choose(squares, [0, 2], data.orbit[~used]) == wanted
        assert preference(squares[0], squares[0], data.orbit[~used]) == 0.0


def test_orbits_and_what_is_held_out():
    atoms = make_atoms(group=P212121)
    voxels = make_voxels(atoms, n=None)
    sizes = np.bincount(voxels.orbit)
    assert sizes.max() == 8 and set(sizes) <= {1, 2, 4, 8}
    s = voxels.s
    assert all(np.ptp(s[voxels.orbit == k]) < 1e-9 for k in range(0, len(sizes), 37))
    voxels = make_voxels(atoms, n=None, d_min=1.3)  # of enough blocks for a part of them to be one of the voxels
    for kind in ("orbits", "regions"):
        held = hold_out(voxels.h, voxels.orbit, 0.2, kind)
        assert all(len(set(held[voxels.orbit == k])) == 1 for k in range(0, len(sizes), 97))
        assert 0.08 < held.mean() < 0.35
    assert (
        len(np.unique(orbits_of(voxels.h, np.array([2, 2, 2]), np.eye(3, dtype=int)[None]))) == (len(voxels) + 1) // 2
    )


def test_the_anisotropic_part_has_no_slope():
    s = np.random.default_rng(5).uniform(0.1, 0.4, 5000)
    assert np.abs(anisotropic_part(3.0 - 2.0 * s, s)).max() < 1e-12
    random = np.random.default_rng(6).normal(size=(2, 5000))
    steep, every = 1e3 * np.exp(-9.0 * s), np.ones(5000, bool)
    assert abs(anisotropic_correlation(steep + random[0], steep + random[1], s, every)) < 0.05


def test_the_indexing_of_a_map():
    metric = np.diag([1 / 48.5**2, 1 / 48.5**2, 1 / 63.5**2])
    four = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]])
    group = np.array([np.linalg.matrix_power(four, n) for n in range(4)])
    assert [reindexing.as_text(m) for m in reindexing.candidates(metric, metric, group)] == ["h,k,l", "k,h,-l"]
    assert reindexing.candidates(metric, 1.2 * metric, group) == []
    long = np.diag([1 / 63.5**2, 1 / 48.5**2, 1 / 48.5**2])
    for m in reindexing.candidates(long, metric, group):
        np.testing.assert_allclose(m.T @ metric @ m, long)
    for text in ("h,k,l", "k,h,-l", "-h,h+k,-l"):
        assert reindexing.as_text(reindexing.from_text(text)) == text
    for text in ("h,k", "h,h,l", "a,b,c", ""):
        with pytest.raises(ValueError, match="is no operation"):
            reindexing.from_text(text)


def test_equivalents_are_evaluated_once_and_give_the_same_fit():
    """Values, standard deviations, chi^2 and what is calculated are those of all voxels one by one."""
    atoms = make_atoms(group=P212121)
    voxels = make_voxels(atoms, n=None)
    random, functions = np.random.default_rng(8), background_functions(voxels.s, "smooth", 5)
    true = RigidBody([atoms], voxels).evaluate(np.array([0.3]))[0] + 500.0
    sigma = 0.05 * true.mean() * random.uniform(0.5, 2.0, len(voxels))
    data = replace(voxels, intensity=true + sigma * random.normal(size=len(true)), sigma=sigma)
    for robust in (False, True):
        problem = Problem(data, functions, ~data.held_out, robust)
        joined = join_equivalents(problem)
        assert len(joined.distinct) < 0.4 * len(voxels)
        one, other = (fit(RigidBody([atoms], part.distinct), part) for part in (problem, joined))
        for name in ("values", "esds", "scale", "scale_esd", "chi_sq", "calculated", "isotropic", "variance"):
            np.testing.assert_allclose(getattr(other, name), getattr(one, name), rtol=2e-5)


def test_few_voxels_are_too_few():
    atoms = make_atoms()
    voxels = make_voxels(atoms, n=20)
    problem = Problem(voxels, background_functions(voxels.s, "smooth", 6), np.ones(20, bool))
    with pytest.raises(CannotModel, match="20 voxels are too few to fit the 8 parameters of rigid_body"):
        fit(RigidBody([atoms], voxels), problem)
