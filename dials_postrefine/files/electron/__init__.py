"""Scaled images of electron diffraction, pairs of them, predictions."""
