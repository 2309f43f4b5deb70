"""Every parameter is documented, typed, and reaches the algorithm in the algorithm's units."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from dials_postrefine.numerics.robust import LOSSES
from dials_postrefine.scopes import (
    RENAMED,
    candidates,
    dataset_settings,
    image_choice,
    load,
    model_request,
    spread_settings,
)
from dials_postrefine.stills.cycles import DatasetSettings
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
    assert choices["intensity_choice"] == list(COLUMNS)


def test_choices_are_what_the_rooms_offer():
    choices = {
        definition.path: [word.value.lstrip("*") for word in definition.object.words]
        for definition in load("postrefine").all_definitions()
        if definition.object.type.phil_type == "choice"
    }
    assert choices["algorithm"] == list(MODELS)
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
    params.algorithm = "rs"  # refines no radius
    assert candidates(params) == (list(PROFILES), ["constant"], list(UNIT_CELLS))


def test_degrees_become_radians():
    params = load("postrefine").extract()
    params.max_misorientation = 1.5
    assert dataset_settings(params).fit.max_misorientation == pytest.approx(np.pi / 120.0)


OF_PROGRAMS = sorted(name for name in PROGRAMS if name != "reference_model")


def glossary() -> dict[str, str]:
    """The table of doc/glossary.rst: name -> default."""
    text = (Path(__file__).parent.parent / "doc" / "glossary.rst").read_text()
    rows, inside = [], 0
    for line in text.splitlines():
        if line.startswith("=====") and "  " in line:
            inside += 1
        elif inside == 2 and line[:1].strip():
            rows.append(line)
    return {row[:26].strip(): row[28:40].strip() for row in rows}


def shared_parameters() -> dict[str, dict[str, object]]:
    """Path -> program -> definition, of the paths that several programs have."""
    found: dict[str, dict[str, object]] = {}
    for program in OF_PROGRAMS:
        for definition in load(program).all_definitions():
            found.setdefault(definition.path, {})[program] = definition.object
    return {path: where for path, where in found.items() if len(where) > 1}


def written(definition) -> tuple[str, str]:
    """Type and default as PHIL has them; of a choice that which is chosen."""
    words = [word.value for word in definition.words]
    if definition.type.phil_type == "choice":
        return "choice", " ".join(word[1:] for word in words if word.startswith("*"))
    return str(definition.type), " ".join(words)


def test_one_name_means_one_thing_in_all_programs():
    known = glossary()
    for path, where in shared_parameters().items():
        if path.startswith("reference_model."):
            assert len({(written(one), one.help) for one in where.values()}) == 1, path
            continue
        assert path in known, f"{path}: describe it in doc/glossary.rst"
        kinds = {one.type.phil_type for one in where.values()}
        assert len(kinds) == 1, (path, kinds)
        if known[path] == "by program":
            continue
        assert len({written(one) for one in where.values()}) == 1, (path, {p: written(o) for p, o in where.items()})
        assert {written(one)[1] for one in where.values()} == {known[path]}, path


def test_a_last_word_at_the_top_is_of_one_type_wherever_it_stands():
    """As a path may be shortened, intensity_choice and input.intensity_choice are one thing to a person."""
    kinds: dict[str, set[str]] = {}
    for program in OF_PROGRAMS:
        for definition in load(program).all_definitions():
            if definition.path.count(".") == 0 or definition.path.startswith("input."):
                kinds.setdefault(definition.object.name, set()).add(definition.object.type.phil_type)
    assert not {name: kind for name, kind in kinds.items() if len(kind) > 1}


def test_the_glossary_has_nothing_that_is_gone():
    paths = {d.path for program in OF_PROGRAMS for d in load(program).all_definitions()}
    scopes = {path.rpartition(".")[0] for path in paths}
    assert glossary() and set(glossary()) <= paths | scopes


def test_log_json_and_page_are_named_after_the_program():
    for program in OF_PROGRAMS:
        names = {d.path: d.object.extract() for d in load(program).all_definitions() if d.path.startswith("output.")}
        for kind in ("log", "json", "html"):
            assert names.get(f"output.{kind}", f"dials.{program}.{kind}") == f"dials.{program}.{kind}"


def test_renamed_parameters_are_gone_and_their_new_names_there():
    for program, names in RENAMED.items():
        paths = {d.path for d in load(program.removeprefix("dials.")).all_definitions()}
        assert not set(names) & paths and set(names.values()) <= paths


@pytest.mark.parametrize("program", OF_PROGRAMS)
def test_help_tells_what_an_option_does_and_no_figures_of_data_sets(program):
    figures = re.compile(r"benchmarks/|held-out|nuclease|thermolysin|lysozyme|nanobragg|simulated", re.IGNORECASE)
    for definition in load(program).all_definitions():
        assert not figures.search(definition.object.help), definition.path


@pytest.mark.parametrize("program", OF_PROGRAMS)
def test_nested_parameters_are_shown_by_h(program):
    """-h shows the scope at expert level 0: no scope hides what is for everybody."""
    import iotbx.phil

    shown = load(program).as_str(expert_level=0, attributes_level=0)
    paths = {d.path for d in iotbx.phil.parse(shown).all_definitions()}
    wanted = {d.path for d in load(program).all_definitions() if not d.object.expert_level}
    assert paths == wanted
