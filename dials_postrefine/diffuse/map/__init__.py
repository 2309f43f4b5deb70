"""The map: pixels of images averaged by voxels of reciprocal space."""
