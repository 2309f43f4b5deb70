"""Outputs that appear at once or not at all; what is read from damaged files."""
