"""What the algorithms for electron diffraction raise."""

from __future__ import annotations


class Unusable(Exception):
    """Data that can't be analysed; the message says why, and what to do."""
