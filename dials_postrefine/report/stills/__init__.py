"""What dials.postrefine says."""
