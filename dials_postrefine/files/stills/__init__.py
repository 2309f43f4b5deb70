"""Stills: read, written, handed over."""
