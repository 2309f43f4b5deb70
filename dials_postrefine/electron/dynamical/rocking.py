"""
Blocks of orientations: where rocking curves are calculated, with which beams, and how observations are sums of them.

A frame's interval is cut into cells of one step, with a node in the middle of each; an observation is

    int_start^end I dphi  =  sum_nodes I(phi_n) |cell_n and [start, end]|

I_g as a function of s has no Fourier component beyond the thickness t, so that the sum over a whole curve is exact
where the step in s is below 1/t (Shannon 1949, Proc. IRE 37, 10), and far off where it is not: undersampled curves
move the thickness.  step = SAFETY/(t |ds/dphi|), with the |ds/dphi| that nine tenths of the observations are below.

Some neighbouring nodes make a block, which has one frozen list of beams, those with |s_g| <= s_max at one of its nodes
and a perturbation strength of at least w_min (bloch/beams.py), and one obliquity m_g.  Turning a frame by a small
rotation vector w_1 e_1 + w_2 e_2, e_1 along the axis and e_2 across it, both across the beam, changes only

    2 K s_g = -(2 k.g + g.g),      d(2 K s_g)/dw_i = -2 k.(e_i x g)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dials_postrefine.electron.bloch.beams import check_memory
from dials_postrefine.electron.bloch.geometry import Geometry, obliquity, twice_k_s
from dials_postrefine.electron.bloch.potential import Potential, indices_within
from dials_postrefine.numerics.frames import FrameData, Frames, slopes_of_excitation

SAFETY = 1.0
LONGEST_BLOCK = np.radians(0.3)
FEWEST_NODES = 4  # of a frame
NEAREST = 40
LEAST_COUPLING = 1e-6  # of the largest |U|, below which a reflection is no way to others


@dataclass(frozen=True)
class BeamLimits:
    """|g| and |s| up to which reflections are beams, 1/Angstrom, and the least perturbation strength."""

    g_max: float
    s_max: float = 0.02
    w_min: float = 0.0


@dataclass(frozen=True)
class Block:
    """
    m nodes of one frame with b beams, and what r observations have of it.

    Attributes
    ----------
    frame : int
    beams : ndarray of int, shape (b, 3)
        0,0,0 first.
    obliquity : ndarray, shape (b,)
        m_g.
    twice_k_s : ndarray, shape (m, b)
        Of the orientation as it was given; 1/Angstrom^2.
    by_tilt : ndarray, shape (2, m, b)
        Its derivatives by w; 1/Angstrom^2.
    rows, beam : ndarray of int, shape (r,)
        The observations, and the beams that they are of.
    weights : ndarray, shape (r, m)
        Of the nodes in the observations.
    """

    frame: int
    beams: np.ndarray
    obliquity: np.ndarray
    twice_k_s: np.ndarray
    by_tilt: np.ndarray
    rows: np.ndarray
    beam: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True)
class OrientationGrid:
    """The blocks; the step between nodes in radians; K in 1/Angstrom; the tilts' axes e_i (f, 2, 3)."""

    blocks: tuple[Block, ...]
    step: float
    k: float
    tilt_axes: np.ndarray

    @property
    def n_orientations(self) -> int:
        """How many matrices there are."""
        return sum(len(block.twice_k_s) for block in self.blocks)

    @property
    def n_beams(self) -> float:
        """How many beams a matrix has on average."""
        return sum(block.twice_k_s.size for block in self.blocks) / max(1, self.n_orientations)


def enough_step(data: FrameData, thickness: float) -> float:
    """
    The step that is enough for a thickness.

    Parameters
    ----------
    data : FrameData
    thickness : float
        Angstrom.

    Returns
    -------
    float
        Radians.
    """
    slope = np.abs(slopes_of_excitation(data))
    if data.frames.motion == "precession":  # s runs over g sin(semi_width) on both sides within half a turn
        slope = data.d_star * np.sin(data.frames.semi_width[data.frame])
    return SAFETY / (thickness * float(np.percentile(slope, 90.0)))


def tilt_axes(frames: Frames) -> np.ndarray:
    """
    e_1 and e_2 of each frame (module docstring).

    Parameters
    ----------
    frames : Frames

    Returns
    -------
    ndarray, shape (f, 2, 3)
    """
    beam = frames.k / np.linalg.norm(frames.k, axis=1, keepdims=True)
    first = frames.axis - np.sum(frames.axis * beam, axis=1, keepdims=True) * beam
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    return np.stack([first, np.cross(beam, first)], axis=1)


def make_grid(
    data: FrameData, used: np.ndarray, potential: Potential, limits: BeamLimits, step: float
) -> OrientationGrid:
    """
    The blocks of all frames that have observations which are used.

    Parameters
    ----------
    data : FrameData
    used : ndarray of bool, shape (n,)
    potential : Potential
        Which perturbation strengths are by.
    limits : BeamLimits
    step : float
        Radians, the largest.

    Returns
    -------
    OrientationGrid
    """
    frames, axes = data.frames, tilt_axes(data.frames)
    hkl = indices_within(frames.a_matrix[0], limits.g_max)
    number = {tuple(h): i for i, h in enumerate(hkl.tolist())}
    of_row = np.array([number.get(tuple(h), -1) for h in data.h.tolist()])
    pieces = _pieces(data)
    blocks = []
    for f in range(frames.n):
        mine = (pieces.frame == f) & used[pieces.row]
        rows, start, end = pieces.row[mine], pieces.start[mine], pieces.end[mine]
        inside = of_row[rows] >= 0
        rows, start, end = rows[inside], start[inside], end[inside]
        if not len(rows):
            continue
        low, high = (0.0, 2.0 * np.pi) if frames.motion == "precession" else (start.min(), end.max())
        n = max(FEWEST_NODES, int(np.ceil((high - low) / step)))
        edges = np.linspace(low, high, n + 1)
        longest = np.inf if frames.motion == "precession" else LONGEST_BLOCK
        size = max(1, min(n, int(longest / (edges[1] - edges[0])) if np.isfinite(longest) else 8))
        for first in range(0, n, size):
            cells = edges[first : min(first + size, n) + 1]
            inner, outer = np.maximum(cells[:-1], start[:, None]), np.minimum(cells[1:], end[:, None])
            weights = np.maximum(outer - inner, 0.0) * data.weight[rows, None]
            some = weights.any(axis=1)
            if some.any():
                wanted = rows[some], of_row[rows[some]], weights[some]
                middles = 0.5 * (cells[1:] + cells[:-1])
                blocks.append(_block(f, _geometry(frames, f, middles), axes[f], hkl, wanted, (potential, limits)))
    k = float(np.mean(np.linalg.norm(frames.k, axis=1)))
    return OrientationGrid(tuple(blocks), step, k, axes)


@dataclass(frozen=True)
class _Pieces:
    """Parts of observations in frames: row, frame, and the interval from the frame's middle."""

    row: np.ndarray
    frame: np.ndarray
    start: np.ndarray
    end: np.ndarray


def _pieces(data: FrameData) -> _Pieces:
    """Each observation in its own frame or, where these tile a sweep, in all that it reaches into."""
    if not data.frames.tile:
        return _Pieces(np.arange(data.n), data.frame, data.start, data.end)
    frames, found = data.frames, []
    start, end = data.start + frames.angle[data.frame], data.end + frames.angle[data.frame]
    for f in range(frames.n):
        low, high = frames.angle[f] - frames.semi_width[f], frames.angle[f] + frames.semi_width[f]
        rows = np.flatnonzero((frames.sweep[data.frame] == frames.sweep[f]) & (start < high) & (end > low))
        inner, outer = np.maximum(start[rows], low), np.minimum(end[rows], high)
        found.append((rows, np.full(len(rows), f), inner - frames.angle[f], outer - frames.angle[f]))
    return _Pieces(*(np.concatenate(one) for one in zip(*found)))


def _geometry(frames: Frames, f: int, phi: np.ndarray) -> Geometry:
    """Of the nodes of a frame (numerics/frames.py)."""
    beam = frames.k[f] / np.linalg.norm(frames.k[f])
    if frames.motion == "rotation":
        return Geometry(_rotations(frames.axis[f], phi) @ frames.a_matrix[f], frames.k[f])
    across = frames.axis[f] - (frames.axis[f] @ beam) * beam
    across /= np.linalg.norm(across)
    tilted = _rotations(across, frames.semi_width[f : f + 1])[0] @ frames.k[f]
    return Geometry(frames.a_matrix[f], _rotations(beam, phi) @ tilted, np.broadcast_to(beam, (len(phi), 3)))


def _rotations(axis: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Rotation matrices (m, 3, 3) by Rodrigues' formula."""
    cross = np.array([[0.0, -axis[2], axis[1]], [axis[2], 0.0, -axis[0]], [-axis[1], axis[0], 0.0]])
    sine, cosine = np.sin(angle)[:, None, None], np.cos(angle)[:, None, None]
    return np.eye(3) + sine * cross + (1.0 - cosine) * (cross @ cross)


def _block(frame: int, geometry: Geometry, axes: np.ndarray, hkl: np.ndarray, wanted: tuple, chosen: tuple) -> Block:
    """Of the nodes of a geometry; wanted: observations, their numbers in hkl, weights; chosen: potential and limits."""
    (rows, of_row, weights), (potential, limits) = wanted, chosen
    every = np.atleast_2d(twice_k_s(geometry, hkl))
    nearest = np.abs(every).min(axis=0)
    k = float(np.linalg.norm(geometry.k, axis=-1).max())
    near = nearest <= 2.0 * k * limits.s_max
    near[0] = True
    if limits.w_min > 0.0:
        candidates = np.flatnonzero(near)
        strength = _strengths(hkl[candidates], nearest[candidates], potential)
        near[candidates[strength < limits.w_min]] = False
        near[0] = True
    near[of_row] = True
    chosen_beams = np.flatnonzero(near)
    beams = np.ascontiguousarray(hkl[chosen_beams])
    check_memory(len(beams), len(every))
    g = np.broadcast_to(geometry.g(beams), (len(every), len(beams), 3))
    k_nodes = np.broadcast_to(geometry.k, (len(every), 3))
    by_tilt = np.array([-2.0 * np.einsum("mbi,mi->mb", np.cross(axis, g), k_nodes) for axis in axes])
    return Block(
        frame,
        beams,
        np.atleast_2d(obliquity(geometry, beams))[len(every) // 2],
        np.ascontiguousarray(every[:, chosen_beams]),
        by_tilt,
        rows,
        np.searchsorted(chosen_beams, of_row),
        weights,
    )


def _strengths(hkl: np.ndarray, twice_k_s: np.ndarray, potential: Potential) -> np.ndarray:
    """
    The perturbation strength w_g (bloch/beams.py), the largest |U_{g-h}|/|2 K s_g| with h the NEAREST to being excited.

    All at once, which takes a hundredth of the time for the many blocks.
    """
    coupling = np.abs(potential.u).ravel()
    largest = coupling[np.delete(np.arange(len(coupling)), len(coupling) // 2)].max()
    stride = np.array([potential.u.shape[1] * potential.u.shape[2], potential.u.shape[2], 1])
    number = hkl @ stride
    strong = np.argsort(twice_k_s, kind="stable")[:NEAREST]
    strong = strong[coupling[number[strong] + len(coupling) // 2] > LEAST_COUPLING * largest]
    strong = np.concatenate([[0], strong])  # 0,0,0 is the first of all
    between = coupling[number[:, None] - number[strong] + len(coupling) // 2]
    between[np.arange(len(hkl))[:, None] == strong] = 0.0
    return between.max(axis=1) / np.maximum(twice_k_s, 1e-3 * largest)
