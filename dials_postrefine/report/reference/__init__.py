"""What dials.reference_intensities says."""
