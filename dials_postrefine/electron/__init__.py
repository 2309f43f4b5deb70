"""Electron diffraction: pairs of images, spread, intensity model.  Numpy and scipy only, as in all algorithms."""
