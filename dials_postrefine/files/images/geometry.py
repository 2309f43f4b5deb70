"""
Where the pixels of an experiment lie, what its beam goes through, and how its crystal is set on each image, as arrays.

    r = S R(phi) F U B h        setting rotation S, fixed rotation F, and U B of the crystal at the time, as DIALS has
    it

phi, U B, S and the beam at the middle of an image, or of equal parts of it; U B between scan points is interpolated
linearly.  The centre of a pixel is half a pixel beyond its number, and where it lies is asked of the panel, which knows
the parallax of its sensor.

Positions on a panel are asked at nodes, between which they are interpolated (diffuse/map/geometry.py).  Where they are
smooth a node every NODE_STEP pixels will do: on a flat panel to rounding, with the shift by parallax to less than a
thousandth of a pixel.  Where a map of distortions shifts each pixel by itself the nodes are the middles of all pixels.
"""

from __future__ import annotations

from hashlib import sha256

import numpy as np

from cctbx.eltbx import attenuation_coefficient
from dxtbx import flumpy

from dials_postrefine.files.dials import models

# Dry air at 20 degrees C and 1013 hPa: g/cm^3, and parts of its mass.
AIR_DENSITY = 1.2041e-3
AIR = {"N": 0.7552, "O": 0.2315, "Ar": 0.0129}
# In pixels: how far nodes are apart.
NODE_STEP = 32
# Strategies of dxtbx by which positions on a panel change smoothly.
SMOOTH = ("SimplePxMmStrategy", "ParallaxCorrectedPxMmStrategy")


def panel_nodes(panel) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixel coordinates slow (n,) and fast (m,), and the positions (n, m, 3; mm) in the laboratory of these nodes."""
    n_fast, n_slow = panel.get_image_size()
    if _is_smooth(panel):
        slow, fast = node_positions(n_slow), node_positions(n_fast)
    else:  # every pixel
        slow, fast = np.arange(n_slow) + 0.5, np.arange(n_fast) + 0.5
    points = np.stack(np.meshgrid(fast, slow), axis=-1).reshape(-1, 2)
    millimetres = panel.pixel_to_millimeter(flumpy.vec_from_numpy(points))
    return slow, fast, flumpy.to_numpy(panel.get_lab_coord(millimetres)).reshape(len(slow), len(fast), 3)


def node_positions(n: int) -> np.ndarray:
    """The coordinates of the nodes along n pixels: the edges, and about every NODE_STEP between."""
    return np.linspace(0.0, n, max(2, int(np.ceil(n / NODE_STEP)) + 1))


def _is_smooth(panel) -> bool:
    """Whether positions on a panel can be interpolated: not where a map of distortions, or what we don't know, is."""
    return panel.get_px_mm_strategy().name() in SMOOTH


def distortion(panel) -> str:
    """What names the map of distortions of a panel, of which its dictionary says nothing."""
    strategy, digest = panel.get_px_mm_strategy(), sha256()
    for name in ("dx", "dy"):
        if hasattr(strategy, name):
            digest.update(np.ascontiguousarray(flumpy.to_numpy(getattr(strategy, name)())).tobytes())
    return "" if _is_smooth(panel) else digest.hexdigest()


def air_attenuation(wavelength: float) -> float:
    """The attenuation of air, mu (1/mm), for X-rays of a wavelength (Angstrom)."""
    return sum(
        0.1 * AIR_DENSITY * part * attenuation_coefficient.get_table(element).mu_rho_at_angstrom(wavelength)
        for element, part in AIR.items()
    )


def setting_matrices(experiment, z: np.ndarray, n_steps: int) -> np.ndarray:
    """From h to the laboratory (n, n_steps, 3, 3), 1/Angstrom, at n_steps moments of each of the images z (n,)."""
    fractions = (np.arange(n_steps) + 0.5) / n_steps
    return np.array([[models.setting_matrix(experiment, i, f) for f in fractions] for i in z])


def oscillation(experiment) -> float:
    """The rotation during an image (degrees), 0 for stills."""
    return abs(experiment.scan.get_oscillation()[1]) if experiment.scan is not None else 0.0
