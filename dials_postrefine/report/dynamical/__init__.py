"""What dials.dynamical says."""
