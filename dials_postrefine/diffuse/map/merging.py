"""
Sums -> the averaged map, its isotropic part and its statistics.

    I_v = L sum n / sum e        L the mean scale of the images where exposures are relative to their level, else 1
    sigma_v = L sqrt(sum var n) / sum e

sums over the voxel and its symmetry equivalents.  Where nothing was counted, the variance is what the isotropic part
leads to expect, one photon at most.  The isotropic part is the ratio of sums in narrow shells of |s|, linear between
them; with a radial offset taken off each image, it is the mean of what was taken off, and is put back here.  Less it, a
map is anisotropic; all correlations are of that, as the isotropic part correlates with anything (0.99 for a wrong
orientation).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dials_postrefine.diffuse.map import columns, orbits
from dials_postrefine.diffuse.map.grid import Grid
from dials_postrefine.diffuse.map.orbits import RadialCurve, Shells
from dials_postrefine.diffuse.map.records import N_PROFILE, N_SHELLS, ImageResult, MappingSettings, shell_edges
from dials_postrefine.numerics.correlation import correlation_from_sums
from dials_postrefine.numerics.shells import equal_width_edges

# Of the normal equations: beyond it too little of the azimuth is seen to tell cos 2 phi from a constant.
MOST_CONDITION = 1e6
# Narrow shells for the isotropic part.
N_RADIAL = 100


@dataclass(frozen=True)
class Radial:
    """
    The isotropic part, in the units of the map.

    By narrow shells of |s|: s (n,) 1/Angstrom, what is in the sums (n,) and its sigma, and the voxels (n,); and what
    was taken off each image on average, offset (m,) at offset_s (m,).
    """

    s: np.ndarray
    plain: np.ndarray
    sigma: np.ndarray
    n: np.ndarray
    offset_s: np.ndarray
    offset: np.ndarray

    def at(self, s: np.ndarray) -> np.ndarray:
        """
        The isotropic intensity.

        Parameters
        ----------
        s : ndarray
            1/Angstrom.

        Returns
        -------
        ndarray
            In the units of the map.
        """
        return np.interp(s, self.s, self.plain) + self.offset_at(s)

    def offset_at(self, s: np.ndarray) -> np.ndarray:
        """
        What was taken off images on average.

        Parameters
        ----------
        s : ndarray
            1/Angstrom.

        Returns
        -------
        ndarray
            In the units of the map.
        """
        return np.interp(s, self.offset_s, self.offset)

    @property
    def intensity(self) -> np.ndarray:
        """The isotropic intensity (n,) at the shells' s."""
        return self.at(self.s)


@dataclass(frozen=True)
class MapShell:
    """
    Statistics of a shell of resolution (Angstrom); of voxels averaged over symmetry.

    completeness, pixels a voxel and its symmetry equivalents that were observed (equivalents), mean intensity and
    sigma, root mean square of the anisotropic part, less its noise, over that of sigma; correlations of the half sets,
    of Friedel pairs, and of each voxel with the mean of its equivalents by the Laue class; chi^2 per degree of freedom
    against Poisson's law; cos_2phi and sin_2phi, how the corrected intensity varies with the azimuth on the detector,
    as parts of it; masked, the part of the pixels that are Bragg.  None where there are no data.
    """

    d_max: float | None
    d_min: float
    n_possible: int
    n: int
    completeness: float | None
    pixels: float | None
    equivalents: float | None
    mean: float | None
    sigma: float | None
    anisotropy: float | None
    cc_half: float | None
    cc_friedel: float | None
    cc_laue: float | None
    chi_sq: float | None
    cos_2phi: float | None
    sin_2phi: float | None
    masked: float | None


@dataclass(frozen=True)
class Map:
    """
    A map: folded sums (orbits.fold) on a grid, the operations (n, 3, 3) of its symmetry, the level L, whether exposures
    are relative to it, the isotropic part, and the statistics by shell, the last one being all.
    """

    grid: Grid
    sums: np.ndarray
    operations: np.ndarray
    level: float
    settings: MappingSettings
    radial: Radial
    shells: list[MapShell]

    def plane(self, i: int) -> dict[str, np.ndarray]:
        """
        The voxels of a plane.

        Parameters
        ----------
        i : int
            Its number along the first axis.

        Returns
        -------
        dict of ndarray (n1, n2)
            intensity, sigma and anisotropic (NaN where there is no pixel), counts (photons), exposure, pixels, half_1
            and half_2 (the intensity of each half of the data).
        """
        grid, (exposure_scale, _) = self.grid, self.settings.quanta
        length = grid.row_high[i] - grid.row_low[i]
        first = int((grid.row_base[i] + grid.row_low[i])[0])
        here = self.sums[first : first + int(length.sum())]  # the rows of a plane follow one another
        observed = np.flatnonzero(here[:, columns.EXPOSURE] > 0)
        row = np.repeat(np.arange(grid.shape[1]), length)[observed]
        x = np.stack([np.full(len(row), i + grid.low[0]), row + grid.low[1], first + observed - grid.row_base[i, row]])
        s = np.linalg.norm(grid.to_s @ x, axis=0)
        inside = (s < 1.0 / grid.d_min) & (s >= 1.0 / grid.d_max)
        observed, x, s = observed[inside], x[:, inside], s[inside]
        total = here[observed]
        counts, pixels, variance, half_counts = (
            total[:, column] / columns.COUNT_SCALE
            for column in (columns.COUNTS, columns.PIXELS, columns.VARIANCE, columns.HALF_COUNTS)
        )
        exposure, half_exposure = (
            total[:, column] / exposure_scale for column in (columns.EXPOSURE, columns.HALF_EXPOSURE)
        )
        offset = self.radial.offset_at(s)
        isotropic = self.radial.at(s)
        expected = np.clip((isotropic - offset) / self.level * exposure, 0.0, 1.0)
        intensity = self.level * counts / exposure + offset
        with np.errstate(invalid="ignore", divide="ignore"):  # a voxel may be in one half only
            half_1 = self.level * half_counts / half_exposure + offset
            half_2 = self.level * (counts - half_counts) / (exposure - half_exposure) + offset
        values = {
            "intensity": intensity,
            "sigma": self.level * np.sqrt(np.maximum(variance, expected)) / exposure,
            "anisotropic": intensity - isotropic,
            "counts": counts,
            "exposure": exposure,
            "pixels": pixels,
            "half_1": np.where(half_exposure > 0.0, half_1, np.nan),
            "half_2": np.where(exposure > half_exposure, half_2, np.nan),
        }
        planes = {}
        for name, value in values.items():
            nothing = 0.0 if name in ("counts", "exposure", "pixels") else np.nan
            planes[name] = np.full(grid.shape[1:], nothing)
            planes[name][x[1] - grid.low[1], x[2] - grid.low[2]] = value
        return planes


def merge(
    sums: np.ndarray,
    images: list[ImageResult],
    grid: Grid,
    settings: MappingSettings,
    operations: np.ndarray,
    laue: np.ndarray,
    n_shells: int = 10,
) -> Map:
    """
    Average the sums over symmetry, in place, and find the statistics.

    Parameters
    ----------
    sums : ndarray (n_voxels, N_SUMS) of int64
        Changed: all equivalents get the sums of all.
    images : list of ImageResult
    grid : Grid
    settings : MappingSettings
        With which the sums were made.
    operations : ndarray (n, 3, 3) of int64
        To average over (symmetry.operations).
    laue : ndarray (m, 3, 3) of int64
        Those of the Laue class, by which equivalents are compared; empty where the grid has not its symmetry.
    n_shells : int
        Of the statistics.

    Returns
    -------
    Map
    """
    used = [image for image in images if image.error is None]
    level = math.fsum(image.scale for image in used) / len(used) if settings.normalised else 1.0
    radial = _radial(sums, used, grid, settings, level)
    edges = equal_width_edges(grid.d_max, grid.d_min, n_shells)
    rows, by_length = grid.rows, Shells(grid.to_s, edges)
    isotropic, offset = RadialCurve(radial.s, radial.plain / level), RadialCurve(radial.offset_s, radial.offset / level)
    pairs_laue, pairs_friedel, observed = orbits.compare_equivalents(
        sums, rows, by_length, laue if len(laue) else operations, isotropic, settings.quanta[0]
    )
    if not len(laue):
        pairs_laue[:] = 0.0
    proper = np.linalg.det(operations) > 0.0 if settings.half_sets == "friedel" else np.zeros(0, bool)
    orbits.fold(sums, rows, operations, proper)
    found, pairs_half = orbits.shell_sums(sums, rows, by_length, operations, isotropic, offset, settings.quanta)
    azimuth = azimuthal_residual(used, shell_edges(grid), edges)
    masked = masked_fraction(used, shell_edges(grid), edges)

    every = list(range(n_shells))
    limits = [*zip(edges[:-1], edges[1:]), (edges[0], edges[-1])]
    shells = [
        _describe_shell(
            found[chosen],
            observed[chosen],
            [pairs[chosen] for pairs in (pairs_half, pairs_friedel, pairs_laue)],
            limits[k],
            level,
            azimuth[k],
            masked[k],
        )
        for k, chosen in enumerate([*([k] for k in every), every])
    ]
    return Map(grid, sums, operations, level, settings, radial, shells)


def _describe_shell(
    found: np.ndarray,
    observed: np.ndarray,
    pairs: list[np.ndarray],
    limits: tuple[float, float],
    level: float,
    azimuthal: tuple[float, float] | None,
    masked: float | None,
) -> MapShell:
    """
    The statistics of n shells together, from their sums.

    found (n, N_SHELL_SUMS) and observed (n,) by orbits.py; pairs: of the half sets, of Friedel pairs and by the Laue
    class, (n, N_PAIR) each; limits in |s|, 1/Angstrom; level L; azimuthal and masked as they are to be said.
    """
    total = found.sum(axis=0)
    n, mean = total[orbits.OBSERVED], _ratio(total[orbits.INTENSITY], total[orbits.OBSERVED])
    noise_sq = _ratio(total[orbits.SIGMA_SQ], n)
    anisotropic_sq = _ratio(total[orbits.ANISOTROPIC_SQ], n)
    sigma = _ratio(total[orbits.SIGMA], n)
    cc_half, cc_friedel, cc_laue = (correlation_from_sums(sums.sum(axis=0)) for sums in pairs)
    low, high = limits
    return MapShell(
        d_max=None if low == 0.0 else 1.0 / low,
        d_min=1.0 / high,
        n_possible=int(total[orbits.POSSIBLE]),
        n=int(n),
        completeness=_ratio(n, total[orbits.POSSIBLE]),
        pixels=_ratio(total[orbits.OBSERVED_PIXELS], n),
        equivalents=_ratio(observed.sum(), n),
        mean=None if mean is None else level * mean,
        sigma=None if sigma is None else level * sigma,
        anisotropy=None
        if not noise_sq or anisotropic_sq is None
        else math.sqrt(max(0.0, anisotropic_sq - noise_sq) / noise_sq),
        cc_half=cc_half,
        cc_friedel=cc_friedel,
        cc_laue=cc_laue,
        chi_sq=_ratio(total[orbits.CHI_SQ], total[orbits.FREEDOM]),
        cos_2phi=None if azimuthal is None else azimuthal[0],
        sin_2phi=None if azimuthal is None else azimuthal[1],
        masked=masked,
    )


def azimuthal_residual(
    images: list[ImageResult], profile_edges: np.ndarray, edges: np.ndarray
) -> list[tuple[float, float] | None]:
    """
    The amplitudes a, b of I(s) (1 + a cos 2 phi + b sin 2 phi) on the detector: least squares in narrow shells, with
    weights of Poisson's law, and their mean with these weights.

    Parameters
    ----------
    images : list of ImageResult
    profile_edges : ndarray (N_SHELLS + 1,)
        Of the profiles (records.shell_edges), 1/Angstrom.
    edges : ndarray (n + 1,)
        Of the shells that are asked for, 1/Angstrom.

    Returns
    -------
    list of n + 1 tuples
        a and b of each shell, and of all; None where nothing tells.
    """
    total = np.zeros((N_SHELLS, N_PROFILE))
    for image in images:  # relative to the level of the image; one that has none tells nothing
        if not (np.isfinite(image.level) and image.level > 0.0 and np.isfinite(image.profile).all()):
            continue
        profile = image.profile / image.level
        total += np.where(np.isin(np.arange(N_PROFILE), (0, 7, 8)), profile, image.profile)
    amplitudes, weights = np.zeros((N_SHELLS, 2)), np.zeros((N_SHELLS, 2))
    for k, (n, e, c, s, cc, cs, ss, nc, ns) in enumerate(total[:, :9]):
        normal = np.array([[e, c, s], [c, cc, cs], [s, cs, ss]])
        if e <= 0.0 or n <= 0.0 or np.linalg.cond(normal) > MOST_CONDITION:
            continue
        level, a, b = np.linalg.solve(normal, [n, nc, ns])
        amplitudes[k] = a / level, b / level
        weights[k] = level / np.diag(np.linalg.inv(normal))[1:]
    found: list[tuple[float, float] | None] = []
    for chosen in _shells_of_profile(profile_edges, edges):
        weight = weights * chosen[:, None]
        total_weight = weight.sum(axis=0)
        mean = (weight * amplitudes).sum(axis=0) / total_weight if (total_weight > 0.0).all() else None
        found.append(None if mean is None else (float(mean[0]), float(mean[1])))
    return found


def _shells_of_profile(profile_edges: np.ndarray, edges: np.ndarray) -> list[np.ndarray]:
    """Which shells of a profile (m,) have their middle in each shell with edges (n + 1,), and last all of them."""
    centres = 0.5 * (profile_edges[1:] + profile_edges[:-1])
    return [(centres >= low) & (centres < high) for low, high in zip(edges, edges[1:])] + [centres > 0.0]


def masked_fraction(images: list[ImageResult], profile_edges: np.ndarray, edges: np.ndarray) -> list[float | None]:
    """
    The part of the pixels that are masked as Bragg peaks.

    Parameters
    ----------
    images, profile_edges, edges
        As of azimuthal_residual.

    Returns
    -------
    list of n + 1 float
        Of each shell, and of all; None where there is no pixel.
    """
    inside, bragg = np.sum([image.profile[:, 9:] for image in images], axis=0).T
    return [_ratio(bragg[chosen].sum(), inside[chosen].sum()) for chosen in _shells_of_profile(profile_edges, edges)]


def index_offset(images: list[ImageResult]) -> tuple[int, np.ndarray, np.ndarray]:
    """
    The offset of the fractional indices of strong spots, 0 where the orientation is right.

    Parameters
    ----------
    images : list of ImageResult

    Returns
    -------
    n : int
        The number of spots.
    mean, esd : ndarray (3,)
        NaN for fewer than two spots.
    """
    n = sum(image.n_spots for image in images)
    if n < 2:
        return n, np.full(3, np.nan), np.full(3, np.nan)
    mean = np.sum([image.offset for image in images], axis=0) / n
    variance = np.maximum(np.sum([image.offset_sq for image in images], axis=0) / n - mean**2, 0.0)
    return n, mean, np.sqrt(variance / (n - 1))


def _ratio(above: float, below: float) -> float | None:
    return float(above / below) if below > 0.0 else None


def _radial(sums, images, grid, settings, level) -> Radial:
    """The isotropic part of sums before they are folded."""
    step = np.linalg.norm(grid.to_s, axis=0).max()
    low, high = 1.0 / grid.d_max, 1.0 / grid.d_min
    n = int(np.clip((high - low) / step, 1, N_RADIAL))
    found = orbits.radial_sums(sums, grid.rows, Shells(grid.to_s, np.linspace(low, high, n + 1)))
    found = found[found[:, 3] > 0.0]
    exposure = found[:, 1] / settings.quanta[0]
    s, plain = found[:, 2] / found[:, 1], found[:, 0] / exposure
    sigma = level * np.sqrt(np.maximum(found[:, 4], 1.0)) / exposure
    edges = shell_edges(grid)
    offset = np.zeros(N_SHELLS)
    if settings.radial_offset:
        each = np.full((len(images), N_SHELLS), np.nan)
        for row, image in zip(each, images):
            np.divide(image.profile[:, 0], image.profile[:, 1] * image.scale, out=row, where=image.profile[:, 1] > 0.0)
        counted = np.isfinite(each)
        offset = level * np.where(counted, each, 0.0).sum(axis=0) / np.maximum(counted.sum(axis=0), 1)
    return Radial(s, level * plain, sigma, found[:, 3], 0.5 * (edges[1:] + edges[:-1]), offset)
