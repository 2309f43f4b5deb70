"""
Pixels that are wrong on most images: hot, or dead, or behind a wire.

A pixel n is suspect on an image where it differs from the median m of those around it, on a square ring of radius RING,
by more than a factor of FACTOR and by N_SIGMA of Poisson's law with the variance v by reading (photons^2):
n > FACTOR m + N_SIGMA sqrt(m + v) + N_SIGMA or m > FACTOR n + N_SIGMA sqrt(n + v) + N_SIGMA.  Peaks do so too, but
move; what is suspect on more than half of several images far apart is bad, and so are the eight pixels around it, into
which its charge leaks now and then.
"""

from __future__ import annotations

import numpy as np

from dials_postrefine.diffuse.map.compiled import jit

RING = 3
FACTOR = 2.0
N_SIGMA = 8.0
# With fewer images a peak may stay where it is; more than MOST say nothing new.
FEWEST_IMAGES, MOST_IMAGES = 3, 5


@jit
def suspects(photons, noise, out):
    """
    Count the pixels of a panel that are suspect on one image (module docstring).

    Parameters
    ----------
    photons : (slow, fast)
        NaN for pixels that can't be trusted on this image; they are not suspect, nor is what has no neighbours that
        can be.
    noise : (slow, fast)
        Variance by reading, photons^2.
    out : (slow, fast) uint8
        One more where a pixel is suspect.
    """
    n_slow, n_fast = photons.shape
    ring = np.empty(8 * RING)
    for i in range(n_slow):
        for j in range(n_fast):
            count = photons[i, j]
            if np.isnan(count):
                continue
            # a look at four of the ring first: most pixels are like them
            near, n_near = 0.0, 0
            for a, b in ((i - RING, j), (i + RING, j), (i, j - RING), (i, j + RING)):
                if 0 <= a < n_slow and 0 <= b < n_fast and not np.isnan(photons[a, b]):
                    near += photons[a, b]
                    n_near += 1
            if n_near > 0 and not _differs(count, near / n_near, noise[i, j], 0.75):
                continue
            n = 0
            for a in range(i - RING, i + RING + 1):
                for b in range(j - RING, j + RING + 1):
                    if max(abs(a - i), abs(b - j)) < RING or a < 0 or b < 0 or a >= n_slow or b >= n_fast:
                        continue
                    if not np.isnan(photons[a, b]):
                        ring[n] = photons[a, b]
                        n += 1
            if n > 0 and _differs(count, np.median(ring[:n]), noise[i, j], 1.0):
                out[i, j] += 1


@jit
def _differs(count, other, variance, part):
    """Whether two counts differ, variance apart from Poisson's law; part < 1: or nearly so."""
    count, other = max(count, 0.0), max(other, 0.0)
    small, large = min(count, other), max(count, other)
    return large > part * (FACTOR * small + N_SIGMA * np.sqrt(small + variance) + N_SIGMA)


def bad(votes: np.ndarray, n_images: int) -> np.ndarray:
    """
    The bad pixels of a panel.

    Parameters
    ----------
    votes : ndarray (slow, fast)
        On how many images each pixel is suspect.
    n_images : int
        Of how many.

    Returns
    -------
    ndarray (slow, fast) of bool
    """
    chosen = votes > n_images // 2
    padded = np.pad(chosen, 1)
    n_slow, n_fast = chosen.shape
    return np.any([padded[i : i + n_slow, j : j + n_fast] for i in range(3) for j in range(3)], axis=0)
