"""Every parameter of PHIL reaches the programs, once, with its default and in the units of the algorithms."""

from __future__ import annotations

import dataclasses
import math

import pytest
from requested import PROGRAMS, bound_paths, request_of, request_type

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("iotbx.phil", reason="parameters are PHIL")

from dials_postrefine.settings.binding import changed_paths, expression, part, phil, values_by_path
from dials_postrefine.settings.scope import load

pytestmark = pytest.mark.dials


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_parameter_is_bound_once_and_in_its_order(program):
    assert bound_paths(request_type(program)) == [one.path for one in load(program).all_definitions()]


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_defaults_are_those_of_phil(program):
    of_phil, ours = values_by_path(request_of(program)), values_by_path(request_type(program)())
    assert of_phil == ours
    # an int is no float, and a list can't be changed behind the back of a frozen dataclass
    assert {path: type(value) for path, value in of_phil.items()} == {path: type(ours[path]) for path in ours}
    hash(request_of(program))


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_choice_is_a_word_whichever_it_is(program):
    for definition in load(program).all_definitions():
        if definition.object.type.phil_type != "choice" or definition.object.type.multi:
            continue
        for word in (each.value.lstrip("*") for each in definition.object.words):
            request = request_of(program, f"{definition.path}={word}")
            assert values_by_path(request)[definition.path] == word.lower(), definition.path


IN_RADIANS = ("max_misorientation", "min_angle")


def another_value(definition):
    """A number that a parameter may have and has not."""
    kind = definition.type
    low = -math.inf if kind.value_min is None else kind.value_min
    high = math.inf if kind.value_max is None else kind.value_max
    candidates = (3, 4, 11) if kind.phil_type == "int" else (3.0, 4.0, 0.4, 0.6)
    return next(value for value in candidates if low <= value <= high and value != definition.extract())


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_number_arrives_at_its_own_field_and_at_no_other(program):
    for definition in load(program).all_definitions():
        if definition.object.type.phil_type in ("int", "float"):
            value = another_value(definition.object)
            request = request_of(program, f"{definition.path}={value}")
            assert changed_paths(request) == [definition.path]
            wanted = math.radians(value) if definition.path in IN_RADIANS else value
            assert values_by_path(request)[definition.path] == pytest.approx(wanted)


def test_auto_and_none():
    assert request_of("postrefine", "n_cycles=4", "nproc=3").n_cycles == 4
    assert request_of("postrefine", "n_cycles=Auto").n_cycles is None
    assert request_of("diffuse_map", "reject.n_sigma=Auto").reject_n_sigma == "auto"
    assert request_of("diffuse_map", "reject.n_sigma=None").reject_n_sigma is None
    assert request_of("diffuse_map", "sampling.phi_steps=Auto").phi_steps is None


def test_lists_become_tuples():
    request = request_of("postrefine", "input.experiments=a.expt", "input.experiments=b.expt", "lattice_plots=one")
    assert request.experiments == ("a.expt", "b.expt") and request.lattice_plots == ("one",)
    assert request_of("postrefine", "fix=radius+theta_x").fix == ("theta_x", "radius")
    request = request_of("diffuse_map", "add=a.nxs b.nxs", "image_range=2 5", "exposure_time=0.1", "planes=hk0 h1l")
    assert request.add == ("a.nxs", "b.nxs") and request.planes == ("hk0", "h1l")
    assert request.image_range == (2, 5) and request.exposure_time == (0.1,)


def test_space_groups_and_cells_are_plain():
    assert request_of("postrefine", "space_group=P43212").space_group == "P 43 21 2"
    rings = request_of("diffuse_map", "mask.ice_rings.unit_cell=5,5,5,90,90,90").mask.ice_rings
    assert rings.unit_cell == (5.0, 5.0, 5.0, 90.0, 90.0, 90.0) and rings.space_group == "P 63/m m c"


@dataclasses.dataclass(frozen=True)
class Inner:
    size: int = phil("size", 1)


@dataclasses.dataclass(frozen=True)
class Outer:
    name: str = phil("deep.name", "a")
    inner: Inner = part("inner.most", Inner)


def test_paths_follow_the_nesting():
    assert bound_paths(Outer) == ["deep.name", "inner.most.size"]
    changed = Outer(inner=Inner(size=2))
    assert changed_paths(changed) == ["inner.most.size"]
    assert expression(changed) == "Outer(inner=Inner(size=2))" and expression(Outer()) == "Outer()"
    assert eval(expression(changed)) == changed
