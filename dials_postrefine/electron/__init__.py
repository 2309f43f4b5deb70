"""
Electron diffraction: pairs of images, spread, intensity model.

Numpy and scipy only, as in all algorithms, but for the trees of intensitymodel.py, which are scikit-learn's.
"""
