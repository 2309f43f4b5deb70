"""Structure factors that were refined, as a CIF fragment: a loop with F for electrons and for X-rays, with esds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dials_postrefine.numerics.disks import Pattern


def write_structure_factors(path: str, pattern: Pattern, factors: Sequence[Any]) -> None:
    """Write the factors (electron/fine/factors.py); F for electrons in Angstrom, for X-rays in electrons."""
    import iotbx.cif
    from iotbx.cif import model

    lengths = np.linalg.norm(pattern.direct, axis=1)
    block = model.block()
    block["_diffrn_radiation_probe"] = "electron"
    block["_diffrn_source_voltage"] = f"{pattern.energy / 1000.0:g}"
    for name, value in zip("abc", lengths):
        block[f"_cell_length_{name}"] = f"{value:.5f}"
    loop = model.loop(
        header=[
            "_refln_label",
            "_refln_sint/lambda",
            "_refln_F_electron",
            "_refln_F_electron_su",
            "_refln_F_xray",
            "_refln_F_xray_su",
            "_refln_U_g",
            "_refln_U_g_su",
        ]
    )
    for one in factors:
        values = (one.s, one.f_electron, one.f_electron_esd, one.f_xray, one.f_xray_esd, one.u, one.u_esd)
        loop.add_row([one.label, *(f"{value:.7g}" for value in values)])
    if len(factors):
        block.add_loop(loop)
    document = iotbx.cif.model.cif()
    document["fine_refine"] = block
    with open(path, "w", encoding="utf-8") as file:
        file.write(str(document))
