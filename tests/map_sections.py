"""Sections of a map, where nobody else goes through its planes."""

from __future__ import annotations

from dials_postrefine.diffuse.map.sections import Collector


def collect_sections(found, planes) -> list:
    """The sections of a map by planes of sections.parse_plane."""
    collector = Collector(found.grid, planes)
    for i in range(found.grid.shape[0]):
        if collector.needs(i):
            collector.add(i, found.plane(i))
    return collector.sections
