"""What dials.diffuse_model remarks on a reduced chi^2 that its model does not explain."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from pair_sums import make_atoms, make_voxels

import dials_postrefine  # noqa: F401  (makes cctbx findable)
from dials_postrefine.diffuse.model.background import background_functions
from dials_postrefine.diffuse.model.fitting import Problem, fit
from dials_postrefine.diffuse.model.rigid_body import RigidBody
from dials_postrefine.report.common.remarks import remark_lines
from dials_postrefine.report.diffuse_model.summary import make_summary

ABOUT = {"d_max": 50.0, "d_min": 2.0, "reindex_operation": "h,k,l"}


def summary_of(noise, variance):
    """Of a map whose noise is so many times its standard deviations."""
    atoms = make_atoms()
    voxels = make_voxels(atoms, n=2000)
    model = RigidBody([atoms], voxels)
    true = model.evaluate(np.array([0.3]))[0]
    voxels.sigma[:] = 0.02 * true.mean()
    voxels.intensity[:] = true + noise * voxels.sigma * np.random.default_rng(3).normal(size=len(voxels))
    found = fit(model, Problem(voxels, background_functions(voxels.s, "smooth", 4), ~voxels.held_out))
    candidate = SimpleNamespace(name="rigid_body", variant={}, motions=None)
    one = SimpleNamespace(candidate=candidate, fit=found, worse=0.0, bic=0.0)
    models = SimpleNamespace(models={"rigid_body": one}, variants=[one], chosen="rigid_body", notes=[], absolute=False)
    return make_summary(ABOUT | {"variance": variance}, voxels, models, 5, [])


@pytest.mark.parametrize("variance", ["Poisson", "sigma", "scatter of equivalents"])
def test_a_misfit_is_remarked_whatever_the_variances_are(variance):
    summary = summary_of(3.3, variance)
    (remark,) = [one for one in summary["verdict"]["remarks"] if one["about"] == "chi2_reduced"]
    assert remark["grade"] == "care" and summary["verdict"]["grade"] == "care"
    chi_sq = summary["models"]["rigid_body"]["chi2_reduced"]
    assert chi_sq == pytest.approx(3.3**2, rel=0.1)
    assert f"reduced chi^2 is {chi_sq:.2f}" in remark["text"] and f"root, {chi_sq**0.5:.2f}" in remark["text"]
    assert ("scatter of symmetry equivalents" in remark["text"]) == (variance == "scatter of equivalents")
    assert f"reduced chi^2 is {chi_sq:.2f}" in " ".join(remark_lines(summary).split())


def test_noise_as_it_should_be_is_not():
    assert not [one for one in summary_of(1.0, "sigma")["verdict"]["remarks"] if one["about"] == "chi2_reduced"]


def test_standard_deviations_are_scaled_by_it():
    """Three times the noise makes three times the standard deviation."""
    esds = [summary_of(noise, "sigma")["models"]["rigid_body"]["parameters"]["sigma"]["esd"] for noise in (1.0, 3.0)]
    assert esds[1] / esds[0] == pytest.approx(3.0, rel=0.15)
