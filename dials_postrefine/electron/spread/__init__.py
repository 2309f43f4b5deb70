"""How far intensities of electron diffraction are reproducible from image to image."""
