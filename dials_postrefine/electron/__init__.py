"""
Electron diffraction: pairs of images, spread, intensity model, dynamical diffraction by Bloch waves.

Numpy and scipy only, as in all algorithms, but for the trees of intensitymodel.py, which are scikit-learn's, and two
loops of bloch/chebyshev.py, which numba compiles.
"""
