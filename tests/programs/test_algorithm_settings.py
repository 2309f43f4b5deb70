"""What the algorithms get of the Requests: their own defaults, and choices that they offer."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from requested import PROGRAMS, request_of

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("iotbx.phil", reason="parameters are PHIL")

from dials_postrefine.numerics.robust import LOSSES
from dials_postrefine.programs.algorithm_settings import (
    compared_column,
    dataset_settings,
    image_choice,
    input_filters,
    model_candidates,
    reference_settings,
    settings_of,
    spread_settings,
    tree_image_choice,
    tree_settings,
)
from dials_postrefine.settings.image_spread import ImageSpreadRequest
from dials_postrefine.settings.intensity_model import IntensityModelRequest
from dials_postrefine.settings.postrefine import PostrefineRequest
from dials_postrefine.settings.scope import load
from dials_postrefine.stills.filters import InputFilters
from dials_postrefine.stills.loop import DatasetSettings
from dials_postrefine.stills.model import MODELS, PARAMETERS, RADII, UNIT_CELLS
from dials_postrefine.stills.partiality import PROFILES, Profile
from dials_postrefine.stills.selection import Candidates

pytestmark = pytest.mark.dials


def choices(program: str) -> dict[str, list[str]]:
    """What each choice of a program offers, by path."""
    return {
        definition.path: [word.value.lstrip("*") for word in definition.object.words]
        for definition in load(program).all_definitions()
        if definition.object.type.phil_type == "choice"
    }


def test_the_defaults_are_those_of_the_algorithms():
    from dials_postrefine.programs.reference_model import ReferenceSettings

    request = PostrefineRequest()
    usual = DatasetSettings()
    searched = {"profile": Profile(), "radius": "mosaic", "unit_cell": "fixed"}  # where the search starts
    assert dataset_settings(request) == replace(usual, fit=replace(usual.fit, **searched))
    assert input_filters(request) == InputFilters()
    assert reference_settings(request.reference_model) == ReferenceSettings()


def test_the_defaults_of_the_programs_for_electrons_are_those_of_the_algorithms():
    from dials_postrefine.electron.spread.imagespread import SpreadSettings
    from dials_postrefine.electron.spread.pairs import MATCHES
    from dials_postrefine.electron.trees.intensitymodel import SPLITS, TreeSettings
    from dials_postrefine.files.electron.scaled_images import ImageChoice
    from dials_postrefine.numerics.images import COLUMNS

    request = ImageSpreadRequest()
    assert spread_settings(request) == SpreadSettings() and image_choice(request) == ImageChoice()
    assert compared_column(request) is None
    trained = IntensityModelRequest()
    assert tree_settings(trained) == TreeSettings()
    assert tree_image_choice(trained) == ImageChoice(image_width=0.0, beam="none")
    assert spread_settings(request_of("image_spread", "min_angle=90")).min_angle == pytest.approx(np.pi / 2.0)
    assert choices("image_spread")["match"] == list(MATCHES)
    assert choices("intensity_model")["split"] == list(SPLITS)
    assert (
        choices("image_spread")["intensity_choice"] == choices("intensity_model")["intensity_choice"] == list(COLUMNS)
    )


def test_choices_are_what_the_rooms_offer():
    offered = choices("postrefine")
    assert offered["algorithm"] == list(MODELS)
    assert offered["radius"] == [*RADII, "auto"]
    assert offered["profile"] == ["auto", *PROFILES]
    assert offered["loss"] == list(LOSSES)
    assert offered["fix"] == list(PARAMETERS)


def test_auto_offers_all_and_a_name_itself():
    assert model_candidates(PostrefineRequest()) == Candidates(None, list(RADII), list(UNIT_CELLS))
    assert dataset_settings(PostrefineRequest()).engine == "auto"
    words = ["profile=gaussian", "radius=constant", "unit_cell=scale"]
    assert model_candidates(request_of("postrefine", *words)) == Candidates(
        Profile("gaussian"), ["constant"], ["scale"]
    )
    request = request_of("postrefine", "algorithm=rs")  # refines no radius
    assert model_candidates(request) == Candidates(None, ["constant"], list(UNIT_CELLS))
    for profile in ("auto", "pearson_vii"):
        request = request_of("postrefine", f"profile={profile}", "exponent=3")
        assert model_candidates(request).profile == Profile("pearson_vii", 3.0)
        assert model_candidates(request_of("postrefine", f"profile={profile}")).profile is None


def test_what_is_called_the_same_is_taken_and_what_is_given_goes_before():
    @dataclass(frozen=True)
    class Settings:
        d_min: float | None = None
        seed: int = 0
        loss: str = "none"
        elsewhere: int = 3

    request = request_of("postrefine", "d_min=2.5", "seed=4", "loss=huber")
    assert settings_of(Settings, request, loss="given") == Settings(2.5, 4, "given", 3)
    with pytest.raises(TypeError):
        settings_of(Settings, request, another=1)


def test_degrees_become_radians():
    request = request_of("postrefine", "max_misorientation=1.5")
    assert dataset_settings(request).fit.max_misorientation == pytest.approx(np.pi / 120.0)


def test_the_default_map():
    pytest.importorskip("numba", reason="numba is not installed: dials.diffuse_map needs it")
    from dials_postrefine.diffuse.map.records import MappingSettings
    from dials_postrefine.files.images.experiments import ImageSettings
    from dials_postrefine.programs.algorithm_settings import image_settings, mapping_settings
    from dials_postrefine.settings.diffuse_map import DiffuseMapRequest

    request = DiffuseMapRequest()
    # what a run does beyond what its parts do by themselves
    assert image_settings(request) == ImageSettings(phi_steps=None, scale="per_image")
    assert mapping_settings(request) == MappingSettings(n_sigma="auto")
    rings = mapping_settings(request_of("diffuse_map", "mask.ice_rings.filter=True", "d_min=2")).excluded
    low, high = rings[0]  # of hexagonal ice, 100 at 3.895 Angstrom
    assert np.sqrt(0.5 * (low**2 + high**2)) == pytest.approx(2.0 / (np.sqrt(3.0) * 4.498))
    assert high**2 - low**2 == pytest.approx(0.002)


def test_each_filter_reaches_its_place():
    request = request_of(
        "postrefine",
        "filtering.method=deltacchalf",
        "filtering.deltacchalf.stdcutoff=3",
        "filtering.significance_filter.enable=True",
        "filtering.significance_filter.sigma=0.7",
        "filtering.unit_cell.absolute_angle_tolerance=1",
        "min_partial_correlation=0.1",
    )
    settings, filters = dataset_settings(request), input_filters(request)
    assert settings.delta_cc_half.stdcutoff == 3.0 and settings.filters.min_partial_correlation == 0.1
    assert filters.significance.sigma == 0.7 and filters.cell_angle == 1.0


@pytest.mark.parametrize("program", [name for name in PROGRAMS if "reference_model.radiation" in choices(name)])
def test_the_words_of_a_reference_model(program):
    names = ("radiation=electron", "table=auto", "bulk_solvent=off", "anomalous=none", "scale=isotropic")
    settings = reference_settings(request_of(program, *(f"reference_model.{name}" for name in names)).reference_model)
    assert (settings.radiation, settings.table, settings.anomalous) == ("electron", None, "none")
    assert settings.bulk_solvent is False and settings.scaling.scale == "isotropic"
