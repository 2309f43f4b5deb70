"""A small molecule that moves as a whole: its atoms, its file, and maps of it, in counts."""

from __future__ import annotations

import numpy as np

CELL = (19.0, 22.0, 26.0)
D_MIN, CELLS, N_ATOMS = 2.6, 2, 40


def simulate_atoms(seed=3):
    """Positions (n, 3) of a compact molecule, elements, and B with individual parts."""
    random = np.random.default_rng(seed)
    xyz = []
    while len(xyz) < N_ATOMS:
        one = random.normal(size=3) * 3.0 + [7.0, 8.0, 9.0]
        if all(np.linalg.norm(one - other) > 1.3 for other in xyz):
            xyz.append(np.round(one, 3))
    b = np.round(np.random.default_rng(4).uniform(9.0, 20.0, N_ATOMS), 2)
    return np.array(xyz), np.array(["CNO"[k % 3] for k in range(N_ATOMS)]), b


def write_pdb(path, group="P 1", cell=CELL, cryst1=True):
    xyz, elements, b = simulate_atoms()
    lines = [f"CRYST1{cell[0]:9.3f}{cell[1]:9.3f}{cell[2]:9.3f}  90.00  90.00  90.00 {group}"] if cryst1 else []
    for k, (place, element, one) in enumerate(zip(xyz, elements, b)):
        x, y, z = place
        lines.append(
            f"ATOM  {k + 1:5d}  {element}   GLY A{k // 4 + 1:4d}    {x:8.3f}{y:8.3f}{z:8.3f}  1.00{one:6.2f}          "
            f" {element}"
        )
    path.write_text("\n".join([*lines, "END", ""]))
    return path


def rigid_intensity(h, group, sigma):
    """(1 - exp(-q^2 sigma^2)) |F_e|^2 + sum f^2 (1 - exp(-q^2 e)) of each copy, atom by atom; e = u - sigma^2."""
    from dials_postrefine.scattering.form_factors import choose_form_factors

    xyz, elements, b = simulate_atoms()
    gaussians = choose_form_factors(["C", "N", "O"]).gaussians
    q = 2.0 * np.pi * h / np.array(CELL)
    q_sq = (q**2).sum(axis=1)
    s_sq = q_sq / (4.0 * np.pi**2)
    f = {
        name: sum(a * np.exp(-w * s_sq / 4) for a, w in zip(one.array_of_a(), one.array_of_b())) + one.c()
        for name, one in gaussians.items()
    }
    own = b / (8.0 * np.pi**2) - sigma**2
    found = np.zeros(len(h))
    for rotation, translation in group:
        place = (xyz / CELL) @ np.array(rotation).T + translation
        amplitude = np.zeros(len(h), complex)
        for x, element, e in zip(place, elements, own):
            amplitude += f[element] * np.exp(2j * np.pi * h @ x - 0.5 * q_sq * e)
            found += f[element] ** 2 * -np.expm1(-q_sq * e)
        found += -np.expm1(-q_sq * sigma**2) * np.abs(amplitude) ** 2
    return found


def write_map(path, intensity_of, axes_order=(0, 1, 2), exposure=2.0, seed=6):
    """A map in counts; its h, k, l are those of the model by axes_order, and its cell accordingly."""
    import h5py

    cell = np.array(CELL)[list(axes_order)]
    axes = [np.arange(-m, m + 1) / CELLS for m in np.ceil(CELLS * cell / D_MIN).astype(int)]
    h = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    of_model = np.empty_like(h)
    of_model[:, list(axes_order)] = h
    s = np.linalg.norm(of_model / CELL, axis=1)
    seen = (s < 1.0 / D_MIN) & (np.abs(h - np.rint(h)).max(axis=1) > 0.01)
    background = 300.0 + 400.0 * np.exp(-(((s - 0.3) / 0.08) ** 2))
    expected = exposure * (intensity_of(of_model[seen]) + background[seen])
    counts = np.zeros(len(h))
    counts[seen] = np.random.default_rng(seed).poisson(expected)
    shape = tuple(map(len, axes))
    with h5py.File(path, "w") as file:
        data = file.create_group("entry/map")
        for name, axis in zip("hkl", axes):
            data[name] = axis
        data["intensity"] = np.where(seen, counts / exposure, np.nan).reshape(shape).astype("f4")
        data["intensity_errors"] = np.where(seen, np.sqrt(np.maximum(counts, 1)) / exposure, np.nan).reshape(shape)
        data["counts"] = counts.reshape(shape)
        data["exposure"] = np.where(seen, exposure, 0.0).reshape(shape)
        file["entry/sample/unit_cell"] = np.array([[*cell, 90.0, 90.0, 90.0]])
        file["entry/sample/space_group"] = "P 1"
        file["entry/symmetry/averaged"] = "p1"
    return path
