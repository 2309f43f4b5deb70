"""Frames of quartz and other small crystals, made of nothing but their geometry, for tests of dynamical refinement."""

from __future__ import annotations

import numpy as np

from dials_postrefine.electron.bloch.electrons import energy_of, relativistic_mass
from dials_postrefine.electron.bloch.potential import Scattering, indices_within
from dials_postrefine.electron.dynamical.crystal import Setting
from dials_postrefine.numerics.frames import (
    FrameData,
    Frames,
    excitation_errors_in_the_middle,
    slopes_of_excitation,
)

WAVELENGTH = 0.02508
AS_GIVEN = Setting(1, np.eye(3, dtype=int))


def quartz(anisotropic: bool = True):
    from cctbx import crystal, xray

    symmetry = crystal.symmetry(unit_cell=(4.9226, 4.9226, 5.4003, 90, 90, 120), space_group_symbol="P3221")
    structure = xray.structure(crystal_symmetry=symmetry)
    structure.add_scatterer(xray.scatterer("Si", (0.0, 0.4713, 5.0 / 6.0), u=0.009))
    structure.add_scatterer(xray.scatterer("O", (0.8547, 0.5858, 0.6187), u=0.016))
    if anisotropic:
        structure.convert_to_anisotropic()
    return structure


def frames_of(structure, n: int = 2, motion: str = "rotation", half: float = 0.5) -> Frames:
    direct = np.array(structure.unit_cell().orthogonalization_matrix()).reshape(3, 3)
    turned = np.linalg.qr(np.array([[0.3, 0.8, -0.5], [-0.9, 0.4, 0.2], [0.3, 0.4, 0.8]]))[0]
    turned *= np.sign(np.linalg.det(turned))
    a_matrix, axis = turned @ np.linalg.inv(direct).T, np.array([0.8, 0.6, 0.0])
    cross = np.cross(np.eye(3), axis)
    angle = np.radians(np.arange(n) * 1.0)
    spin = [np.eye(3) + np.sin(a) * cross + (1 - np.cos(a)) * cross @ cross for a in angle]
    return Frames(
        number=np.arange(n),
        sweep=np.zeros(n, dtype=int),
        angle=angle,
        semi_width=np.full(n, np.radians(half)),
        a_matrix=np.array(spin) @ a_matrix,
        axis=np.tile(axis, (n, 1)),
        k=np.tile([0.0, 0.0, -1.0 / WAVELENGTH], (n, 1)),
        motion=motion,
    )


def data_of(structure, frames: Frames, d_star_max: float = 1.0) -> FrameData:
    """All reflections that are reached in the middle half of the frames, with intensities to be filled in."""
    hkl = indices_within(frames.a_matrix[0], d_star_max)[1:]
    frame, h = np.repeat(np.arange(frames.n), len(hkl)), np.tile(hkl, (frames.n, 1))
    n, half = len(h), frames.semi_width[0]
    turn = (0.0, 2.0 * np.pi) if frames.motion == "precession" else (-half, half)
    data = FrameData(
        frames=frames,
        frame=frame,
        h=h,
        intensity=np.ones(n),
        variance=np.full(n, 1e-6),
        start=np.full(n, turn[0]),
        end=np.full(n, turn[1]),
        weight=np.full(n, 1.0 / (turn[1] - turn[0])),
        row=np.arange(n),
        cell=np.array(structure.unit_cell().parameters()),
        unique=np.arange(n),
        laue=np.eye(3)[None],
        lattice=np.eye(3)[None],
    )
    s = excitation_errors_in_the_middle(data)
    reach = np.abs(slopes_of_excitation(data)) * half
    return data.select(np.abs(s) < 0.5 * reach)


def scattering() -> Scattering:
    return Scattering(relativistic_mass(energy_of(WAVELENGTH)), WAVELENGTH)
