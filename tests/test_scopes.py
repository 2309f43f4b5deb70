"""Every parameter is documented, typed, and reaches the algorithm in the algorithm's units."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dials_postrefine.scopes import (
    candidates,
    dataset_settings,
    image_choice,
    load,
    model_request,
    spread_settings,
)
from dials_postrefine.stills.cycles import DatasetSettings
from dials_postrefine.stills.minimise import LOSSES
from dials_postrefine.stills.model import MODELS, PARAMETERS, RADII, UNIT_CELLS
from dials_postrefine.stills.partiality import PROFILES

PROGRAMS = [path.stem for path in (Path(__file__).parent.parent / "phil").glob("*.phil")]


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_parameter_has_a_type_and_a_help_text(program):
    for definition in load(program).all_definitions():
        assert definition.object.type is not None, definition.path
        assert definition.object.help, definition.path


def test_the_defaults_of_phil_are_those_of_the_dataclasses():
    assert dataset_settings(load("postrefine").extract()) == DatasetSettings()


def test_the_defaults_of_the_programs_for_electrons_are_those_of_the_dataclasses():
    from dials_postrefine.electron.imagespread import SpreadSettings
    from dials_postrefine.electron.intensitymodel import SPLITS, TreeSettings
    from dials_postrefine.electron.pairs import MATCHES
    from dials_postrefine.files.scaled_images import COLUMNS, ImageChoice

    params = load("image_spread").extract()
    assert spread_settings(params) == SpreadSettings() and image_choice(params) == ImageChoice()
    request = model_request(load("intensity_model").extract())
    assert request.trees == TreeSettings() and request.choice == ImageChoice(image_width=0.0, beam="none")
    params.min_angle = 90.0
    assert spread_settings(params).min_angle == pytest.approx(np.pi / 2.0)
    choices = {
        definition.path: [word.value.lstrip("*") for word in definition.object.words]
        for program in ("image_spread", "intensity_model")
        for definition in load(program).all_definitions()
        if definition.object.type.phil_type == "choice"
    }
    assert choices["match"] == list(MATCHES) and choices["split"] == list(SPLITS)
    assert choices["intensity"] == list(COLUMNS)


def test_choices_are_what_the_rooms_offer():
    choices = {
        definition.path: [word.value.lstrip("*") for word in definition.object.words]
        for definition in load("postrefine").all_definitions()
        if definition.object.type.phil_type == "choice"
    }
    assert choices["model"] == list(MODELS)
    assert choices["radius"] == [*RADII, "auto"]
    assert choices["profile"] == [*PROFILES, "auto"]
    assert choices["loss"] == list(LOSSES)
    assert choices["fix"] == list(PARAMETERS)


def test_auto_offers_all_and_a_name_itself():
    params = load("postrefine").extract()
    assert candidates(params) == ([params.profile], [params.radius], [params.unit_cell])
    scope = load("postrefine")
    words = scope.command_line_argument_interpreter().process_args(
        ["profile=auto", "radius=auto", "unit_cell=auto", "engine=auto"]
    )
    params = scope.fetch(sources=words).extract()
    assert dataset_settings(params).engine == "auto"
    assert candidates(params) == (list(PROFILES), list(RADII), list(UNIT_CELLS))
    params.model = "rs"  # refines no radius
    assert candidates(params) == (list(PROFILES), ["constant"], list(UNIT_CELLS))


def test_degrees_become_radians():
    params = load("postrefine").extract()
    params.max_misorientation = 1.5
    assert dataset_settings(params).fit.max_misorientation == pytest.approx(np.pi / 120.0)
