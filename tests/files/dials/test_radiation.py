"""What a beam is of has one answer, and what depends on it follows."""

from __future__ import annotations

import numpy as np
import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("dials.array_family.flex", reason="the beams and tables are those of DIALS")

from dials.array_family import flex
from dxtbx.model import Beam
from dxtbx.model.experiment_list import Experiment, ExperimentList

from dials_postrefine.files.dials.integrated import add_polarisation
from dials_postrefine.files.dials.radiation import choose_radiation, is_xray, probe_of, radiation_of

pytestmark = pytest.mark.dials


@pytest.mark.parametrize(
    "wavelength, probe, expected",
    [
        (0.02508, None, "electron"),
        (0.0498, None, "electron"),
        (0.2, None, "xray"),
        (1.0, None, "xray"),
        (None, None, "xray"),
        (1.5, "neutron", "neutron"),
        (0.9, "electron", "electron"),
    ],
)
def test_radiation_is_that_of_the_beam(wavelength, probe, expected):
    assert choose_radiation(wavelength, probe) == expected


class Probed:
    """A beam with a probe, as dxtbx has them from 3.17 on."""

    def __init__(self, wavelength: float, probe: str):
        self.get_wavelength = lambda: wavelength
        self.get_probe_name = lambda: probe


@pytest.mark.parametrize(
    "wavelength, probe, wanted, expected",
    [
        (0.02508, "x-ray", None, "electron"),  # what dxtbx calls a beam whose file says nothing
        (0.0698, "x-ray", None, "xray"),
        (0.0698, "x-ray", "electron", "electron"),
        (0.0698, "electron", None, "electron"),
        (1.5, "neutron", None, "neutron"),
        (0.02508, "electron", "xray", "xray"),
        (1.0, "x-ray", None, "xray"),
    ],
)
def test_a_parameter_comes_before_the_probe_and_this_before_the_wavelength(wavelength, probe, wanted, expected):
    beam = Probed(wavelength, probe)
    assert radiation_of(beam, wanted) == expected
    assert is_xray(beam, wanted) == (expected == "xray")
    assert probe_of(beam) == (probe if probe != "x-ray" else None)


@pytest.mark.parametrize(
    "wavelength, radiation, xray",
    [(1.0, None, True), (0.02508, None, False), (0.06, None, True), (0.06, "electron", False), (1.0, "neutron", False)],
)
def test_xrays_alone_have_a_polarisation(wavelength, radiation, xray):
    beam = Beam((0.0, 0.0, 1.0), wavelength)
    beam.set_polarization_normal((0.0, 1.0, 0.0))
    beam.set_polarization_fraction(0.9)
    s1 = np.array([0.4, 0.3, np.sqrt(0.75)])
    table = flex.reflection_table()
    table["id"] = flex.int([0])
    table["s1"] = flex.vec3_double([tuple(map(float, s1 / wavelength))])
    add_polarisation(table, ExperimentList([Experiment(beam=beam)]), radiation)
    along, across = 1.0 - 0.4**2, 1.0 - 0.3**2  # 1 - cos^2 of the angles to the two axes of the electric field
    fraction = 0.9  # in the plane whose normal is y, that is along x
    assert table["lp"][0] == (pytest.approx(1.0 / (fraction * along + (1.0 - fraction) * across)) if xray else 1.0)
