"""Postrefinement of stills: numpy and scipy only; the minimiser of single lattices is numerics/leastsquares.py."""
