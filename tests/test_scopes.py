"""Every parameter is documented, typed, and reaches the algorithm in the algorithm's units."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dials_postrefine.scopes import dataset_settings, load
from dials_postrefine.stills.dataset import DatasetSettings
from dials_postrefine.stills.minimise import LOSSES
from dials_postrefine.stills.model import MODELS, PARAMETERS, RADII
from dials_postrefine.stills.partiality import PROFILES

PROGRAMS = [path.stem for path in (Path(__file__).parent.parent / "phil").glob("*.phil")]


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_parameter_has_a_type_and_a_help_text(program):
    for definition in load(program).all_definitions():
        assert definition.object.type is not None, definition.path
        assert definition.object.help, definition.path


def test_the_defaults_of_phil_are_those_of_the_dataclasses():
    assert dataset_settings(load("postrefine").extract()) == DatasetSettings()


def test_choices_are_what_the_rooms_offer():
    choices = {
        definition.path: [word.value.lstrip("*") for word in definition.object.words]
        for definition in load("postrefine").all_definitions()
        if definition.object.type.phil_type == "choice"
    }
    assert choices["model"] == list(MODELS)
    assert choices["radius"] == list(RADII)
    assert choices["profile"] == list(PROFILES)
    assert choices["loss"] == list(LOSSES)
    assert choices["fix"] == list(PARAMETERS)


def test_degrees_become_radians():
    params = load("postrefine").extract()
    params.max_misorientation = 1.5
    assert dataset_settings(params).fit.max_misorientation == pytest.approx(np.pi / 120.0)
