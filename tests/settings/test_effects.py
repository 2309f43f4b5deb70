"""Parameters without effect are named, those that have one are not."""

from __future__ import annotations

import pytest
from requested import request_of

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("iotbx.phil", reason="parameters are PHIL")

from dials_postrefine.settings.effects import RULES, without_effect
from dials_postrefine.settings.scope import load

pytestmark = pytest.mark.dials


def said(program: str, changes: str, chosen=None) -> list[str]:
    request = request_of(program.removeprefix("dials."), *changes.split("; "))
    return without_effect(program, request, chosen)


@pytest.mark.parametrize(
    ("program", "changes", "words"),
    [
        ("dials.diffuse_map", "mask.n_sigma=6; mask.bragg=box", "mask.n_sigma= has no effect, as mask.bragg is box."),
        ("dials.diffuse_map", "mask.box=0.1; mask.bragg=profile", "mask.box= has no effect, as mask.bragg is profile."),
        ("dials.diffuse_map", "mask.ice_rings.width=0.01", "as mask.ice_rings.filter is False."),
        ("dials.diffuse_map", "grid.spacing=0.01", "grid.spacing= has no effect, as grid.frame is hkl."),
        ("dials.diffuse_map", "background.scale=2", "as there is no background.experiments=."),
        ("dials.diffuse_map", "add=a.nxs b.nxs; d_min=2", "d_min= has no effect, as add is "),
        ("dials.postrefine", "radius=mosaic; algorithm=rs", "radius= has no effect, as algorithm is rs."),
        ("dials.postrefine", "free_fraction=0.2", "as cross_validation is half_sets."),
        ("dials.postrefine", "reference_model.ions=True", "as there is no reference=."),
        ("dials.postrefine", "filtering.deltacchalf.stdcutoff=3", "as filtering.method is none."),
        ("dials.intensity_model", "train=a.expt a.refl; test=b.expt b.refl; split=unique", "as train is "),
        (
            "dials.diffuse_model",
            "background.n=8; background.functions=constant",
            "as background.functions is constant.",
        ),
        ("dials.diffuse_model", "k_sol=0.3", "as bulk_solvent is False."),
        ("dials.image_spread", "beam.annulus=10 4; beam.intensity=none", "as beam.intensity is none."),
        ("dials.fine_refine", "detector.a=1.3", "as there is no detector.gain=."),
        ("dials.fine_refine", "detector.mtf_iterations=5", "as there is no detector.mtf=."),
        ("dials.reference_intensities", "reference_model.k_sol=0.3; reference_model.bulk_solvent=off", "is off."),
    ],
)
def test_a_parameter_without_effect_is_named(program, changes, words):
    (sentence,) = said(program, changes)
    assert words in sentence


def test_what_infers_a_covariance_has_no_effect_on_a_given_one():
    chosen = {"model": ["background", "covariance"]}
    assert said("dials.diffuse_model", "model=covariance; covariance.rank=2", chosen) == []
    (sentence,) = said("dials.diffuse_model", "model=covariance; covariance.rank=2; input.covariance=v.npz", chosen)
    assert "covariance.rank= has no effect, as input.covariance is v.npz." in sentence


@pytest.mark.parametrize(
    ("program", "changes"),
    [
        ("dials.diffuse_map", "mask.n_sigma=6"),
        ("dials.diffuse_map", "mask.n_sigma=6; mask.bragg=profile"),
        ("dials.diffuse_map", "mask.ice_rings.filter=True; mask.ice_rings.width=0.1"),
        ("dials.diffuse_map", "grid.frame=cartesian; grid.spacing=0.01"),
        ("dials.diffuse_map", "background.experiments=a.expt; background.scale=2"),
        ("dials.diffuse_map", "add=a.nxs b.nxs; symmetry=p1; planes=hk0"),
        ("dials.postrefine", "radius=mosaic; cross_validation=free_reflections; free_fraction=0.2"),
        ("dials.postrefine", "reference=a.pdb; reference_model.ions=True"),
        ("dials.postrefine", "filtering.method=deltacchalf; filtering.deltacchalf.stdcutoff=3"),
        ("dials.intensity_model", "split=unique; n_folds=3"),
        ("dials.diffuse_model", "bulk_solvent=True; k_sol=0.3"),
        ("dials.fine_refine", "detector.gain=2; detector.a=1.3"),
    ],
)
def test_a_parameter_with_an_effect_is_not(program, changes):
    assert said(program, changes) == []


def test_the_changed_parameters_may_be_named():
    """PHIL takes `auto` that is written out for a change."""
    request = request_of("diffuse_map", "add=a.nxs b.nxs", "mask.bragg=auto")
    assert without_effect("dials.diffuse_map", request) == []
    (sentence,) = without_effect("dials.diffuse_map", request, changed=["add", "mask.bragg"])
    assert sentence == "mask.bragg= has no effect, as add is ['a.nxs', 'b.nxs']."


def test_what_auto_chose_counts():
    assert said("dials.diffuse_map", "mask.n_sigma=6", {"mask.bragg": ["profile", "box"]}) == []
    (sentence,) = said("dials.diffuse_map", "mask.n_sigma=6", {"mask.bragg": ["box"]})
    assert sentence == "mask.n_sigma= has no effect, as mask.bragg is box."


def test_every_rule_is_about_parameters_and_values_that_there_are():
    from fnmatch import fnmatchcase

    for program, rules in RULES.items():
        definitions = {one.path: one.object for one in load(program.removeprefix("dials.")).all_definitions()}
        for pattern, other, values in rules:
            assert any(fnmatchcase(name, pattern) for name in definitions), (program, pattern)
            assert other in definitions, (program, other)
            if definitions[other].type.phil_type == "choice":
                choices = {word.value.lstrip("*").lower() for word in definitions[other].words}
                assert {value.lower() for value in values} <= choices, (program, other)
