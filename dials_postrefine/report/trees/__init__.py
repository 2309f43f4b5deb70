"""What dials.intensity_model says."""
