"""What dials.image_spread says."""
