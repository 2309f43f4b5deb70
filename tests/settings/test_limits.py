"""What a parameter can't have it can't have in a Request made in Python either, and the same sentence says so."""

from __future__ import annotations

import math

import numpy as np
import pytest
from requested import PROGRAMS, request_of, request_type, request_with

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("iotbx.phil", reason="parameters are PHIL")

from dials.util import Sorry

from dials_postrefine.settings.binding import as_phil, from_scope, values_by_path
from dials_postrefine.settings.limits import check_values
from dials_postrefine.settings.scope import load

pytestmark = pytest.mark.dials

IN_RADIANS = ("max_misorientation", "min_angle")


def beyond(definition):
    """Values that a parameter can't have, as they are written for PHIL and as a Request would have them."""
    kind = definition.object.type
    to_request = math.radians if definition.path in IN_RADIANS else lambda value: value
    if kind.phil_type == "choice":
        yield ("neither", ("neither",)) if kind.multi else ("neither", "neither")
        return
    step = 1 if kind.phil_type in ("int", "ints") else 1e-6
    limits = ((getattr(kind, "value_min", None), -step), (getattr(kind, "value_max", None), step))
    numbers = [limit + more for limit, more in limits if limit is not None]
    for value in numbers:
        if kind.phil_type in ("ints", "floats"):
            n = kind.size_min or 1
            yield " ".join([repr(value)] * n), (value,) * n
        else:
            yield repr(value), to_request(value)
    if kind.phil_type in ("int", "float"):
        yield "many", "many"
    if kind.phil_type == "float":
        yield "nan", math.nan
    if kind.phil_type == "int":
        yield "2.5", 2.5


def limited(program):
    return [one for one in load(program).all_definitions() if any(beyond(one))]


def refusal_on_the_command_line(program: str, argument: str) -> str:
    from dials_postrefine.command_line import parse_arguments

    with pytest.raises(Sorry) as refused:
        parse_arguments([argument], load(program), f"dials.{program}", "")
    return str(refused.value)


@pytest.mark.parametrize("program", PROGRAMS)
def test_what_is_beyond_its_limits_is_refused_by_the_same_sentence_from_python(program):
    definitions = limited(program)
    assert len(definitions) > 4
    for definition in definitions:
        for text, value in beyond(definition):
            request = request_with(program, definition.path, value)
            with pytest.raises(Sorry) as refused:
                request.check()
            assert str(refused.value) == refusal_on_the_command_line(program, f"{definition.path}={text}")
            assert definition.path in str(refused.value) or text in str(refused.value)


@pytest.mark.parametrize("program", PROGRAMS)
def test_values_at_their_limits_are_taken(program):
    for definition in load(program).all_definitions():
        kind = definition.object.type
        if kind.phil_type not in ("int", "float"):
            continue
        for limit in (kind.value_min, kind.value_max):
            if limit is not None:
                value = math.radians(limit) if definition.path in IN_RADIANS else limit
                check_values(program, request_with(program, definition.path, value))


def test_none_and_auto_are_refused_where_they_mean_nothing():
    for path in ("n_shells", "convergence", "restraints"):
        with pytest.raises(Sorry, match=f"^{path}=None is not possible: give a value.$"):
            check_values("postrefine", request_with("postrefine", path, None))
    check_values("postrefine", request_with("postrefine", "d_min", None))
    check_values("postrefine", request_with("postrefine", "n_cycles", None))  # as many as it takes


ARGUMENTS = {
    "postrefine": (
        "n_cycles=3",
        "fix=radius+theta_x",
        "max_misorientation=0.7",
        "space_group=P43212",
        "filtering.method=deltacchalf",
    ),
    "diffuse_map": (
        "grid.subdivide=2 4 6",
        "reject.n_sigma=None",
        "mask.ice_rings.unit_cell=5,5,5,90,90,90",
        "image_range=2 5",
        "corrections.air=False",
        "exposure_time=0.1 0.30000000000000004",
        "background.radial=offset",
    ),
    "diffuse_model": (
        "model=rigid_body+elastic",
        "elastic.cutoff=9.5",
        "displacements=model",
        "rigid_body.tensor=True",
        "bulk_solvent=True",
    ),
    "dynamical": (
        "refine=orientation+structure",
        "thickness.distribution=wedge",
        "beams.step=0.05",
        "restrain.orientation=0.03",
        "ions=peng1998",
    ),
    "image_spread": ("min_angle=3.3", "beam.annulus=30 4", "compare=none", "beam.intensity=none"),
    "intensity_model": ("trees.learning_rate=0.1", "reference_model.bulk_solvent=off"),
    "reference_intensities": ("reference_model.radiation=electron", "input.wavelength=1.1"),
    "fine_refine": ("refine=thickness+b", "beams.most=40", "detector.gain=2.2", "method=nelder_mead", "bound=True"),
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_request_becomes_phil_and_back(program):
    import iotbx.phil

    scope = load(program)
    for arguments in ((), ARGUMENTS[program]):
        request = request_of(program, *arguments)
        again = scope.fetch(iotbx.phil.parse(as_phil(request, scope))).extract()
        assert from_scope(request_type(program), again) == request
    assert values_by_path(request) != values_by_path(request_type(program)())


def test_numbers_of_numpy_are_numbers():
    check_values("postrefine", request_with("postrefine", "d_min", np.float64(2.0)))
    with pytest.raises(Sorry, match="n_shells element is less than the minimum allowed value: 0 < 1"):
        check_values("postrefine", request_with("postrefine", "n_shells", np.int64(0)))
