"""What dials.diffuse_map says."""
