"""
The pixels of an image set: the one place where values of images are read, for maps, backgrounds, bad pixels and beams.

    n = (v - b) / g                    photons: v the value as read, b the pedestal, g the gain (counts a photon)
    var(n) = n + (r / g)^2             r the read noise (counts rms), which is a parameter

as dxtbx's ImageSet.get_corrected_data has it: b and g are the maps of the image set where it has them
(external_lookup, pixel by pixel), else the numbers of each panel; the gains of panels count only where all are
positive.  A gain or pedestal that the user gives wins over both.  Whether v can be trusted is a matter of v itself, of
the trusted range of its panel (versions.trusted_interval), of masks that move (shadows of the goniometer), and of
masks that are the same on all images (static_mask, which is asked once).

Where there are no maps, values stay what was read (int32 or float64), and each panel has one Scale; with maps they
are photons as float64, with the Scale of photons.  photons() is the same for either.
"""

from __future__ import annotations

import os
import pickle
from dataclasses import dataclass

import numpy as np

from dials.util import Sorry
from dxtbx import flumpy

from dials_postrefine.diffuse import BadImage
from dials_postrefine.files.dials.versions import trusted_interval
from dials_postrefine.files.reference.file_kinds import Kind, refuse_compressed, what_else


@dataclass(frozen=True)
class Scale:
    """What values of a panel mean: photons (v - pedestal) / gain; v can be trusted where low <= v < high."""

    gain: float = 1.0
    pedestal: float = 0.0
    trusted: tuple[float, float] = (-np.inf, np.inf)


class Reader:
    """
    The pixels of the chosen images (all for None) of an experiment's image set; gain and pedestal (counts) in place of
    those that dxtbx has.

    scales: a Scale for each panel, of what a call returns.  Raises Sorry for maps that do not fit the detector.
    """

    def __init__(self, experiment, chosen=None, gain: float | None = None, pedestal: float | None = None):
        self.imageset = experiment.imageset
        self.chosen = np.arange(len(self.imageset)) if chosen is None else chosen
        panels = list(experiment.detector)
        self._shapes = [panel.get_image_size()[::-1] for panel in panels]
        gains = [panel.get_gain() for panel in panels]
        gains = gains if min(gains) > 0.0 else [1.0] * len(gains)
        pedestals = [panel.get_pedestal() for panel in panels]
        lookup = self.imageset.external_lookup
        self._gains = [gain] * len(panels) if gain is not None else self._map(lookup.gain, "gain") or gains
        self._pedestals = (
            [pedestal] * len(panels) if pedestal is not None else self._map(lookup.pedestal, "pedestal") or pedestals
        )
        self._trusted = [trusted_interval(*panel.get_trusted_range()) for panel in panels]
        self.has_maps = any(isinstance(one, np.ndarray) for one in (*self._gains, *self._pedestals))
        self.scales = [Scale()] * len(panels)
        if not self.has_maps:
            self.scales = [Scale(*one) for one in zip(self._gains, self._pedestals, self._trusted)]

    def __call__(self, i: int) -> list[np.ndarray]:
        """The values of the panels (slow, fast) of the i-th of the chosen images.  Raises BadImage."""
        number = int(self.chosen[i])
        try:
            values = [flumpy.to_numpy(panel) for panel in self.imageset.get_raw_data(number)]
            if self.imageset.has_dynamic_mask():  # shadows, which move
                mask = self.imageset.get_mask(number)
                values = [np.where(flumpy.to_numpy(m), value, np.inf) for m, value in zip(mask, values)]
        except Exception as error:  # readers of damaged images raise anything
            name = self.imageset.get_path(number)
            if name and not os.path.exists(name):
                raise BadImage(f"its file {name} does not exist") from error
            raise BadImage(f"it can't be read ({first_line(error)})") from error
        values = [value if value.dtype in (np.int32, np.float64) else value.astype(np.float64) for value in values]
        if not self.has_maps or [value.shape for value in values] != self._shapes:  # whoever asks checks the shapes
            return values
        found = []
        for value, gain, pedestal, (low, high) in zip(values, self._gains, self._pedestals, self._trusted):
            trusted = (value >= low) & (value < high) & np.isfinite(pedestal) & np.isfinite(gain) & (gain > 0.0)
            found.append(np.full(value.shape, np.inf))
            np.divide(value - pedestal, gain, out=found[-1], where=trusted)
        return found

    def photons(self, i: int) -> list[np.ndarray]:
        """The photons of the panels (slow, fast) float64 of an image, NaN where not to be trusted.  Raises BadImage."""
        values = self(i)
        if [value.shape for value in values] != self._shapes:
            raise BadImage("its panels have another number or size than those of the experiment")
        found = []
        for value, scale in zip(values, self.scales):
            low, high = scale.trusted
            trusted = (value >= low) & (value < high)
            found.append(np.where(trusted, (value - scale.pedestal) / scale.gain, np.nan))
        return found

    def noise(self, read_noise: float) -> np.ndarray:
        """The variance (n_pixels,) float32 of the photons by a read noise (counts rms)."""
        parts = []
        for shape, gain in zip(self._shapes, self._gains):
            known = np.isfinite(gain) & (np.asarray(gain) > 0.0)
            variance = np.divide(read_noise, gain, out=np.zeros(np.shape(gain)), where=known) ** 2
            parts.append(np.broadcast_to(variance, shape).ravel())
        return np.concatenate(parts).astype(np.float32)

    def _map(self, item, name: str) -> list[np.ndarray] | None:
        if item.data.empty():
            return None
        tiles = [flumpy.to_numpy(tile.data()) for tile in item.data]
        if [tile.shape for tile in tiles] != self._shapes:
            raise Sorry(
                f"The {name} map of the images ({item.filename}) has another number or size of panels than the "
                f"detector: import the images again with the right lookup.{name}, or give {name}=."
            )
        return tiles


def static_mask(experiment, mask_file: str | None = None) -> np.ndarray:
    """
    The pixels (n_pixels,) uint8 that no mask takes away which is the same on all images: untrusted rectangles, the mask
    of the image set, and a mask file of dials.generate_mask.  Raises Sorry for masks that do not fit the detector.
    """
    detector, found = experiment.detector, []
    external = experiment.imageset.external_lookup.mask.data
    given = None if external.empty() else [flumpy.to_numpy(tile.data()) for tile in external]
    read = None if mask_file is None else _read_mask(mask_file)
    for number, panel in enumerate(detector):
        usable = flumpy.to_numpy(panel.get_untrusted_rectangle_mask()).copy()
        for masks, name in ((given, "of the images"), (read, mask_file)):
            if masks is None:
                continue
            if len(masks) != len(detector) or masks[number].shape != usable.shape:
                raise Sorry(f"The mask {name} has another number or size of panels than the detector.")
            usable &= masks[number]
        found.append(usable.ravel())
    return np.concatenate(found).astype(np.uint8)


def first_line(error: Exception) -> str:
    """The first line of what an error says, or its name."""
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(". ")


def _read_mask(path: str) -> list[np.ndarray]:
    refuse_compressed(path)
    try:
        with open(path, "rb") as file:
            return [flumpy.to_numpy(panel) for panel in pickle.load(file, encoding="bytes")]
    except OSError as error:
        raise Sorry(f"mask.file={path} can't be read ({error.strerror}): check the name.") from error
    except Exception as error:  # pickle and flumpy raise anything
        why = what_else(path, Kind.PICKLE)
        raise Sorry(f"mask.file={path} is no mask as dials.generate_mask writes it ({why}).") from error
