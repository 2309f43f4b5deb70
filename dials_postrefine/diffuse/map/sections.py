"""
Planes of the map to look at: what they are called, where they lie, and their collection while the map goes by.

A plane holds one coordinate at a value and lets the other two, u and v, run: indices h, k, l, or x, y, z (1/Angstrom)
of a Cartesian grid.  hk0, h0.5l, 0kl, "h,k,1/3", xy0.1 are names of planes.  In the plane, Cartesian coordinates p have
their first axis along that of u and their second one to the side of that of v, so that

    p = M (u, v) + p_0,     s^2 = |p|^2 + height^2,     M = ((|a|, |b| cos g), (0, |b| sin g))                     (1)

with the reciprocal axes a and b of u and v, the angle g between them, and p_0 and height from the third axis: a circle
of |s| is one about p = 0.  Lengths are 1/Angstrom.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from dials_postrefine.diffuse.map.grid import Grid

LETTERS = {"hkl": "hkl", "cartesian": "xyz"}
DEFAULT_PLANES = {"hkl": ("hk0", "h0l", "0kl"), "cartesian": ("xy0", "x0z", "0yz")}
NUMBER = r"[-+]?(?:\d+/\d+|\d+\.?\d*|\.\d+)"
PATTERN = re.compile(
    rf"\(?(?P<a>[hx]|{NUMBER})[\s,]*(?P<b>[ky]|{NUMBER})[\s,]*(?P<c>[lz]|{NUMBER})\)?", re.IGNORECASE | re.ASCII
)
# Two values of a coordinate are one where they differ by less than this: 0.333 is a third, 0.33 is not.
SAME = 5e-4
KINDS = ("intensity", "sigma", "anisotropic")


@dataclass(frozen=True)
class Plane:
    """A plane: the frame whose coordinates it is said in, the two that run, the one that is fixed, and at what."""

    frame: str
    running: tuple[int, int]
    fixed: int
    value: float

    @property
    def name(self) -> str:
        """As parse_plane reads it."""
        letters = list(LETTERS[self.frame])
        letters[self.fixed] = f"{round(self.value, 4) + 0.0:g}"
        return "".join(letters)


def parse_plane(text: str) -> Plane:
    """
    The plane of a name.

    Parameters
    ----------
    text : str
        hk0, h,k,0.333, h1/3l, xy0 and the like.

    Returns
    -------
    Plane

    Raises
    ------
    ValueError
        With a sentence, for anything else.
    """
    match = PATTERN.fullmatch(text.strip())
    parts = [part.lower() for part in match.groups()] if match else []
    numbers = [a for a, part in enumerate(parts) if not part.isalpha()]
    letters = "".join(part for part in parts if part.isalpha())
    frames = [frame for frame, known in LETTERS.items() if letters and set(letters) <= set(known)]
    value = None
    if len(numbers) == 1 and frames:
        try:
            value = float(Fraction(parts[numbers[0]].rstrip(".")))
        except (ZeroDivisionError, OverflowError):
            pass
    if value is None:
        raise ValueError(
            f"'{text}' is not a plane: hold one index at a number and let the other two run, as in hk0, h1l, 0kl or "
            "h,k,1/3; on a Cartesian grid as in xy0, x0z or 0yz (1/A)."
        )
    fixed = numbers[0]
    first, second = (a for a in range(3) if a != fixed)
    return Plane(frames[0], (first, second), fixed, value)


@dataclass(frozen=True)
class MapSection:
    """
    A plane of a map: its name, the letters of u and v, its position in words, a note where that is not the one that was
    wanted (else empty); u (n,) and v (m,); matrix M (2, 2), p_0 (2,) and height of (1); the limits of |s|, low and high
    (1/Angstrom); and of KINDS the values (n, m), float32, NaN where nothing was observed.
    """

    name: str
    frame: str
    letters: tuple[str, str]
    position: str
    note: str
    u: np.ndarray
    v: np.ndarray
    matrix: np.ndarray
    origin: np.ndarray
    height: float
    limits: tuple[float, float]
    values: dict[str, np.ndarray]

    @property
    def lengths(self) -> tuple[float, float]:
        """Of the axes of u and v, 1/Angstrom (a unit of u or v)."""
        first, second = np.linalg.norm(self.matrix, axis=0)
        return float(first), float(second)

    @property
    def angle(self) -> float:
        """Between the axes of u and v, rad."""
        return float(np.arctan2(self.matrix[1, 1], self.matrix[0, 1]))

    def s(self) -> np.ndarray:
        """|s| (n, m), 1/Angstrom."""
        u, v = self.u[:, None], self.v[None, :]
        x = self.matrix[0, 0] * u + self.matrix[0, 1] * v + self.origin[0]
        y = self.matrix[1, 1] * v + self.origin[1]
        return np.sqrt(x * x + y * y + self.height**2)

    def inside(self) -> np.ndarray:
        """Which voxels (n, m) lie between the limits of resolution."""
        s, (low, high) = self.s(), self.limits
        return (s >= low) & (s <= high)


@dataclass
class Collector:
    """
    Collects planes of a map whose voxels come as Map.plane(i), i along the first axis: add() what needs() says.

    sections are in the order of the planes, each once.  Raises ValueError, with a sentence, for a plane that the grid
    does not have.
    """

    grid: Grid
    planes: Sequence[Plane]
    sections: list[MapSection] = field(init=False)
    _places: list[tuple[int, int]] = field(init=False)

    def __post_init__(self) -> None:
        self.sections, self._places = [], []
        for plane in self.planes:
            number, section = _place(self.grid, plane)
            if (plane.fixed, number) not in self._places:
                self._places.append((plane.fixed, number))
                self.sections.append(section)

    def needs(self, i: int) -> bool:
        """
        Whether any section has voxels in a plane.

        Parameters
        ----------
        i : int
            Its number along the first axis.

        Returns
        -------
        bool
        """
        return any(axis != 0 or number == i for axis, number in self._places)

    def add(self, i: int, voxels: dict[str, np.ndarray]) -> None:
        """
        Take what sections need of a plane.

        Parameters
        ----------
        i : int
            Its number along the first axis.
        voxels : dict of ndarray
            As Map.plane has them.
        """
        for (axis, number), section in zip(self._places, self.sections):
            for kind, out in section.values.items():
                if axis == 0 and number == i:
                    out[:] = voxels[kind]
                elif axis == 1:
                    out[i] = voxels[kind][number]
                elif axis == 2:
                    out[i] = voxels[kind][:, number]


def _place(grid: Grid, plane: Plane) -> tuple[int, MapSection]:
    """The number of the nearest plane of voxels along the axis that is fixed, and the section without its values."""
    if plane.frame != grid.frame:
        examples = ", ".join(DEFAULT_PLANES[grid.frame])
        raise ValueError(f"Plane {plane.name}: planes of a grid with frame={grid.frame} are called as in {examples}.")
    axis, letter = plane.fixed, LETTERS[grid.frame][plane.fixed]
    steps = np.broadcast_to(grid.spacing if grid.frame == "cartesian" else 1.0 / np.array(grid.subdivide), 3)
    vectors = grid.to_s / steps
    a, b, c = (vectors[:, number] for number in (*plane.running, axis))
    e_1 = a / np.linalg.norm(a)
    normal = np.cross(a, b)
    normal = normal / np.linalg.norm(normal)
    e_2 = np.cross(normal, e_1)
    x = round(plane.value / steps[axis])
    value = x * steps[axis]
    high = 1.0 / grid.d_min
    if not abs(value * (c @ normal)) < high:
        most = (np.ceil(high / abs(c @ normal) / steps[axis]) - 1.0) * steps[axis]
        raise ValueError(
            f"Plane {plane.name} is beyond d_min={grid.d_min:.2f}: {letter} goes from {-most:.4g} to {most:.4g}."
        )
    unit = " 1/Å" if grid.frame == "cartesian" else ""
    position, note = f"{letter} = {round(value, 4) + 0.0:g}{unit}", ""
    if abs(value - plane.value) > SAME:
        note = f"There are no voxels at {letter} = {plane.value:g}{unit}: this is the nearest plane, {position}."
    u, v = (grid.axes[number] for number in plane.running)
    section = MapSection(
        Plane(plane.frame, plane.running, axis, value).name,
        grid.frame,
        tuple(LETTERS[grid.frame][number] for number in plane.running),
        position,
        note,
        u,
        v,
        np.array([[a @ e_1, b @ e_1], [0.0, b @ e_2]]),
        value * np.array([c @ e_1, c @ e_2]),
        float(value * (c @ normal)),
        (1.0 / grid.d_max, high),
        {kind: np.full((len(u), len(v)), np.nan, np.float32) for kind in KINDS},
    )
    return int(x - grid.low[axis]), section
