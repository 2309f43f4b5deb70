"""Amplitudes of electron diffraction predicted by boosted trees."""
