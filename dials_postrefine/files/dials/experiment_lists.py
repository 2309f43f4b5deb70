"""
Experiment lists of one space group, which become files quickly.

dxtbx finds the Hall symbol of each crystal anew when it writes a list, which takes longer than all else of a still.
"""

from __future__ import annotations

from collections.abc import Iterable

from cctbx import sgtbx
from dxtbx.model import ExperimentList


class OneSpaceGroup(ExperimentList):
    """Experiments whose crystals have, or get when the list is written, the one space group; else as any list."""

    def __init__(self, experiments: Iterable, space_group):
        super().__init__(list(experiments))
        self.space_group = space_group

    def to_dict(self) -> dict:
        """
        As ExperimentList.to_dict, which makes the files, with the symbol of the space group found once.

        Meanwhile the crystals are in P 1, whose symbol is found at once.
        """
        crystals = [model for model in self.crystals() if model is not None]
        no_symmetry = sgtbx.space_group()
        for model in crystals:
            model.set_space_group(no_symmetry)
        try:
            written = super().to_dict()
        finally:
            for model in crystals:
                model.set_space_group(self.space_group)
        symbol = self.space_group.info().type().hall_symbol()
        for model in written["crystal"]:
            model["space_group_hall_symbol"] = symbol
        return written
