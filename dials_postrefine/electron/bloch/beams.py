"""
Which beams there are: a list that is chosen once, and frozen.

A reflection g is a beam where |g| <= g_max and, in at least one of the orientations,

    |s_g| <= s_max   and   w_g = max_h |U_{g-h}|/(2 K |s_g|) >= w_min

with h over 0,0,0 and the NEAREST reflections of |2 K s_h| up to ten times the largest |U|: the first-order amplitude
that the strongest beams give it (perturbation strength, Zuo and Weickenmeier 1995, Ultramicroscopy 57, 375), so that
reflections with U_g = 0 by a screw or glide are among the beams.  Those that no U_{g-h} reaches (a centred lattice) are
not.  A list that changes from step to step of a fit makes the intensities jump: it is made of
all orientations together, and kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dials_postrefine.electron.bloch.geometry import Geometry, excitation_errors
from dials_postrefine.electron.bloch.potential import Potential, indices_within

MOST_BYTES = 4e9
NEAREST = 100
LEAST_COUPLING = 1e-9  # of the largest |U|: less is rounding


@dataclass(frozen=True)
class BeamSelection:
    """
    The limits (module docstring).

    Attributes
    ----------
    g_max : float
        1/Angstrom; the table of U must reach twice as far.
    s_max : float
        1/Angstrom.
    w_min : float
        Perturbation strength, 0 for any.
    most : int
        Beams, the strongest being kept: what memory and time allow.
    """

    g_max: float = 2.5
    s_max: float = 0.07
    w_min: float = 0.0
    most: int | None = None


def select_beams(geometry: Geometry, potential: Potential, selection: BeamSelection) -> np.ndarray:
    """
    The beams of one orientation, or of a stack together.

    Parameters
    ----------
    geometry : Geometry
    potential : Potential
    selection : BeamSelection

    Returns
    -------
    ndarray of int, shape (n, 3), not writeable
        0,0,0 first, then by rising |g|.

    Raises
    ------
    ValueError
        For a table of U that does not reach, or too many beams for memory.
    """
    reciprocal = np.reshape(geometry.reciprocal, (-1, 3, 3))
    hkl = indices_within(reciprocal[0], selection.g_max)
    s = np.abs(excitation_errors(geometry, hkl)).reshape(-1, len(hkl)).min(axis=0)
    near = s <= selection.s_max
    near[0] = True
    hkl, s = hkl[near], s[near]
    k = float(np.linalg.norm(geometry.k, axis=-1).max())
    strength = perturbation_strengths(hkl, 2.0 * k * s, potential)
    strength[0] = np.inf
    kept = (strength > 0.0) & (strength >= selection.w_min)
    if selection.most is not None and kept.sum() > selection.most:
        kept &= strength >= np.sort(strength)[-selection.most]
    beams = np.ascontiguousarray(hkl[kept])
    check_memory(len(beams), len(reciprocal))
    beams.flags.writeable = False
    return beams


def perturbation_strengths(hkl: np.ndarray, twice_k_s: np.ndarray, potential: Potential) -> np.ndarray:
    """
    w_g (module docstring).

    Parameters
    ----------
    hkl : ndarray of int, shape (n, 3)
    twice_k_s : ndarray, shape (n,)
        |2 K s_g|, the least of all orientations; 1/Angstrom^2.
    potential : Potential

    Returns
    -------
    ndarray, shape (n,)
        Large where s is none; 0 where no U reaches.
    """
    u = np.abs(potential.u)
    u[tuple(potential.largest)] = 0.0  # U_0 couples no beams
    flat, largest = u.ravel(), u.max()
    coupling = flat[potential.places(hkl)]
    near = np.argsort(twice_k_s, kind="stable")[:NEAREST]
    coupling[np.all(hkl == 0, axis=1)] = largest
    for i in near[twice_k_s[near] < 10.0 * largest]:
        if coupling[i] > LEAST_COUPLING * largest:  # none of those that the lattice's centring forbids
            np.maximum(coupling, flat[potential.places(hkl - hkl[i])], out=coupling)
    coupling[coupling < LEAST_COUPLING * largest] = 0.0
    return coupling / np.maximum(twice_k_s, 1e-3 * largest)


def check_memory(n_beams: int, n_orientations: int = 1) -> None:
    """
    Refuse matrices of so many beams and orientations that they are too large for memory.

    Parameters
    ----------
    n_beams, n_orientations : int

    Raises
    ------
    ValueError
        Where they need more than MOST_BYTES.
    """
    needed = 3.0 * 16.0 * n_beams**2 * n_orientations
    if needed > MOST_BYTES:
        raise ValueError(
            f"{n_beams} beams in {n_orientations} orientations need {needed / 1e9:.1f} GB: lower g_max or s_max, raise "
            "w_min, or take fewer orientations at a time"
        )
