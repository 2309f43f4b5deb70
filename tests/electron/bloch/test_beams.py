"""The choice of beams: what it must have, what it may leave out, and how near it comes to converged intensities."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dials_postrefine.electron.bloch import electrons
from dials_postrefine.electron.bloch.beams import BeamSelection, check_memory, select_beams
from dials_postrefine.electron.bloch.convergence import converge
from dials_postrefine.electron.bloch.geometry import Geometry, excitation_errors
from dials_postrefine.electron.bloch.intensities import intensities
from dials_postrefine.electron.bloch.potential import (
    Potential,
    Scattering,
    indices_within,
    potential_of_atoms,
)
from dials_postrefine.electron.bloch.structurematrix import structure_matrix
from dials_postrefine.scattering.electron_atoms import electron_atoms

SILICON = (5.4309,) * 3 + (90,) * 3
AT_200_KV = Scattering(electrons.relativistic_mass(200e3), electrons.wavelength(200e3))
K = electrons.wave_number(200e3)


def zone_axis(structure, uvw, scattering=AT_200_KV, d_star_max=5.0):
    """Geometry and potential, the electrons running along uvw."""
    orthogonal = np.array(structure.unit_cell().orthogonalization_matrix()).reshape(3, 3)
    direction = orthogonal @ np.array(uvw, dtype=float)
    reciprocal = np.linalg.inv(orthogonal).T
    geometry = Geometry(reciprocal, K * direction / np.linalg.norm(direction))
    return geometry, potential_of_atoms(electron_atoms(structure), reciprocal, d_star_max, scattering)


@pytest.fixture
def silicon(make_structure):
    return make_structure(SILICON, "F d -3 m :1", [("Si", (0, 0, 0), 0.4668)])


def test_indices_within_a_sphere_are_all_of_them():
    reciprocal = np.linalg.inv(np.array([[5.0, 0.0, 0.0], [-2.0, 6.0, 0.0], [1.0, 1.0, 4.0]]))
    found = indices_within(reciprocal, 0.8)
    every = np.stack(np.meshgrid(*[np.arange(-9, 10)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    expected = every[np.linalg.norm(every @ reciprocal.T, axis=1) <= 0.8]
    assert {tuple(h) for h in found.tolist()} == {tuple(h) for h in expected.tolist()}
    assert not found[0].any() and np.all(np.diff(np.linalg.norm(found @ reciprocal.T, axis=1)) > -1e-9)


def test_glides_have_beams_and_centring_has_none(silicon):
    """Silicon 200 and 222 have U = 0 but are excited from 111; 100 and 110 are not there."""
    geometry, potential = zone_axis(silicon, (0, 1, -1))
    beams = {tuple(h) for h in select_beams(geometry, potential, BeamSelection(1.0, 0.05)).tolist()}
    assert {(2, 0, 0), (2, 2, 2), (1, 1, 1), (-2, 0, 0)} <= beams
    assert all(len({x % 2 for x in h}) == 1 for h in beams)


def test_the_limits_hold_and_the_list_is_frozen(quartz_case):
    atoms, geometry, scattering, _ = quartz_case
    potential = potential_of_atoms(atoms, geometry.reciprocal, 3.2, scattering)
    selection = BeamSelection(1.5, 0.04)
    beams = select_beams(geometry, potential, selection)
    s = np.abs(excitation_errors(geometry, beams))
    assert s.max() <= 0.04 and np.linalg.norm(geometry.g(beams), axis=1).max() <= 1.5
    every = indices_within(geometry.reciprocal, 1.5)
    assert len(beams) == np.count_nonzero(np.abs(excitation_errors(geometry, every)) <= 0.04)
    strong = select_beams(geometry, potential, replace(selection, w_min=0.02))
    assert not strong[0].any() and len(strong) < 0.8 * len(beams)
    assert len(select_beams(geometry, potential, replace(selection, most=20))) == 20
    with pytest.raises(ValueError, match="read-only"):
        beams[0, 0] = 1


def test_beams_of_many_orientations_are_those_of_each(quartz_case):
    atoms, geometry, scattering, _ = quartz_case
    potential = potential_of_atoms(atoms, geometry.reciprocal, 2.2, scattering)
    turned = geometry.k + np.array([[-0.6, 0.0, 0.0], [0.0, 0.0, 0.0], [0.6, 0.0, 0.0]])
    selection = BeamSelection(1.1, 0.01)
    together = select_beams(replace(geometry, k=turned), potential, selection)
    alone = [select_beams(replace(geometry, k=k), potential, selection) for k in turned]
    assert {tuple(h) for h in together.tolist()} == {tuple(h) for one in alone for h in one.tolist()}


def r1(found, beams, intensity, selected):
    """sum |I - I_ref|/sum I_ref by thickness, a beam that was not chosen counting as 0."""
    place = {tuple(h): i for i, h in enumerate(selected.tolist())}
    own = np.zeros_like(intensity)
    for i, h in enumerate(beams.tolist()):
        if tuple(h) in place:
            own[:, i] = found[:, place[tuple(h)]]
    return np.abs(own - intensity).sum(axis=1) / intensity.sum(axis=1)


def structure_of(truth, make_structure):
    a, b, c = np.linalg.norm(truth.A, axis=1)
    angle = np.degrees(np.arccos(truth.A[0] @ truth.A[1] / (a * b)))
    atoms = [(str(e), tuple(x), u) for e, x, u in zip(truth.elements, truth.frac, truth.B)]
    return make_structure((a, b, c, 90, 90, angle), "P 1", atoms)


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "reference", "selection"),
    [
        ("Si110", "multislice", BeamSelection()),
        ("Si_row111", "converged", BeamSelection(2.5, 0.07)),
        ("quartz_general2", "converged", BeamSelection(2.5, 0.05)),
    ],
)
def test_from_the_structure_to_converged_intensities(truth_of, make_structure, name, reference, selection):
    """R1 <= 0.02, or what the given set says of its own error where that is more (2000 A of silicon [110])."""
    truth = truth_of(name)
    atoms = electron_atoms(structure_of(truth, make_structure))
    potential = potential_of_atoms(atoms, truth.geometry.reciprocal, 2.0 * selection.g_max, AT_200_KV)
    chosen = select_beams(truth.geometry, potential, selection)
    found = intensities(structure_matrix(truth.geometry, potential, chosen), truth.thickness)
    beams = truth.arrays.get("beams_multislice", truth.beams) if reference == "multislice" else truth.beams
    error = r1(found, beams, truth.arrays[f"intensity_{reference}"], chosen)
    assert np.all(error <= np.maximum(0.02, truth.truth_R1_halfset)), error
    assert np.mean(error) <= 0.01


@pytest.mark.data
def test_the_given_converged_beams_give_the_given_converged_intensities(truth_of, make_structure):
    """1149 beams of silicon [110], from atoms: 1e-6."""
    truth = truth_of("Si110")
    g_max, s_max = truth.gmax_smax_converged
    atoms = electron_atoms(structure_of(truth, make_structure))
    potential = potential_of_atoms(atoms, truth.geometry.reciprocal, 2.0 * g_max, AT_200_KV)
    chosen = select_beams(truth.geometry, potential, BeamSelection(g_max, s_max))
    assert {tuple(h) for h in chosen.tolist()} == {tuple(h) for h in truth.beams_converged.tolist()}
    found = intensities(structure_matrix(truth.geometry, potential, chosen), truth.thickness)
    place = {tuple(h): i for i, h in enumerate(chosen.tolist())}
    own = found[:, [place[tuple(h)] for h in truth.beams.tolist()]]
    np.testing.assert_allclose(own, truth.intensity_converged, rtol=0, atol=1e-6)


def test_convergence_is_judged(make_structure):
    """GaAs on [110] with few beams does not converge, and is said not to; with more, thin, it does."""
    gallium_arsenide = make_structure(
        (5.6533,) * 3 + (90,) * 3, "F -4 3 m", [("Ga", (0, 0, 0), 0.6), ("As", (0.25, 0.25, 0.25), 0.6)]
    )
    geometry, potential = zone_axis(gallium_arsenide, (1, 1, 0), d_star_max=7.0)
    thickness = np.array([20.0, 600.0, 1500.0])
    bad = converge(geometry, potential, BeamSelection(1.0, 0.02), thickness)
    assert (
        bad.r1[2] > 0.1 and "do not converge" in bad.sentence and f"{len(bad.beams)} and {bad.n_larger}" in bad.sentence
    )
    good = converge(geometry, potential, BeamSelection(2.5, 0.07), np.array([50.0]))
    assert good.r1[0] < 0.01 and good.sentence is None and good.n_larger > len(good.beams)
    nothing = converge(geometry, potential, BeamSelection(0.2, 0.02), np.array([50.0]))
    assert len(nothing.beams) == 1 and "No beam of 1 is diffracted" in nothing.sentence


def test_too_many_beams_for_memory_are_refused():
    with pytest.raises(ValueError, match="GB: lower g_max"):
        check_memory(20000)
    check_memory(300, 100)


def test_a_table_that_does_not_reach_is_refused(silicon):
    geometry, potential = zone_axis(silicon, (0, 1, -1), d_star_max=1.0)
    assert isinstance(potential, Potential)
    with pytest.raises(ValueError, match="twice"):
        select_beams(geometry, potential, BeamSelection(2.0, 0.05))
