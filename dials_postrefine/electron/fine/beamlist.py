"""
Which beams a pattern is simulated with: a list that is chosen once, and frozen.

Those that come with the data, if they are not too many; else the strongest of them, or of all within |g| and s_g, by
the perturbation strength of electron/bloch/beams.py in any of the incident directions.  The disks are always among
them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dials_postrefine.electron.bloch.beams import BeamSelection, perturbation_strengths, select_beams
from dials_postrefine.electron.bloch.geometry import Geometry, twice_k_s
from dials_postrefine.electron.bloch.potential import Potential


def choose_beams(
    geometry: Geometry, potential: Potential, given: np.ndarray, disks: np.ndarray, selection: BeamSelection
) -> np.ndarray:
    """
    The beams, and the disks among them.

    Parameters
    ----------
    geometry : Geometry
        Of some of the incident directions.
    potential : Potential
    given : ndarray of int, shape (b, 3)
        Those that come with the data; (0, 3) for none.
    disks : ndarray of int, shape (d, 3)
    selection : BeamSelection

    Returns
    -------
    ndarray of int, shape (n, 3)
        0,0,0 first.
    """
    if len(given) == 0:
        found = select_beams(geometry, potential, selection)
    elif selection.most is not None and len(given) > selection.most:
        near = np.abs(twice_k_s(geometry, given)).reshape(-1, len(given)).min(axis=0)
        strength = perturbation_strengths(given, near, potential)
        strength[np.all(given == 0, axis=1)] = np.inf
        found = given[np.sort(np.argsort(-strength, kind="stable")[: selection.most])]
    else:
        found = given
    rows = dict.fromkeys([(0, 0, 0), *map(tuple, found.tolist()), *map(tuple, disks.tolist())])
    return np.array(list(rows), dtype=int)


def places_of(disks: np.ndarray, beams: np.ndarray) -> np.ndarray:
    """
    The places of the disks among the beams.

    Parameters
    ----------
    disks : ndarray of int, shape (d, 3)
    beams : ndarray of int, shape (n, 3)

    Returns
    -------
    ndarray of int, shape (d,)
    """
    numbers = {tuple(one): k for k, one in enumerate(np.asarray(beams).tolist())}
    return np.array([numbers[tuple(one)] for one in np.asarray(disks).tolist()])


def more_beams(selection: BeamSelection, n: int) -> BeamSelection:
    """
    A selection of about twice as many beams, to see what they change.

    Parameters
    ----------
    selection : BeamSelection
    n : int
        How many there are.

    Returns
    -------
    BeamSelection
    """
    return replace(selection, s_max=1.5 * selection.s_max, most=2 * n)
