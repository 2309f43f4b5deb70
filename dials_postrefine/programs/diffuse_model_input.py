"""What dials.diffuse_model fits: the files as arrays, the map in the setting of the model, its voxels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dials.util import Sorry

from dials_postrefine.diffuse.model import reindexing
from dials_postrefine.diffuse.model.agreement import anisotropic_correlation, anisotropic_part, correlations_of_halves
from dials_postrefine.diffuse.model.atoms import Atoms
from dials_postrefine.diffuse.model.displaced_solvent import displace_solvent
from dials_postrefine.diffuse.model.rigid_body import RigidBody
from dials_postrefine.diffuse.model.voxels import PoissonLaw, Voxels, hold_out, orbits_of
from dials_postrefine.files.maps.reading import MapOnGrid, read_map_on_grid
from dials_postrefine.files.reference.atomic_models import AtomicModel, read_atomic_model
from dials_postrefine.scattering.arrays import structure_arrays
from dials_postrefine.scattering.form_factors import WATER, FormFactorChoice, choose_form_factors
from dials_postrefine.scattering.structure_factors import calculate_f_mask
from dials_postrefine.settings.diffuse_model import DiffuseModelRequest

POISSON = 0.05  # by which sigma^2 may differ from what Poisson's law has
FEWEST_PER_PARAMETER = 10
OUTSIDE = 2.0  # cells from the middle of the atoms, or of the cell, beyond which nothing of a molecule is
MOST_TRIED = 20000  # voxels by which indexing is found
LEAST_CC = 0.3  # CC1/2 of the anisotropic part that makes a shell one with signal
BETTER = 0.05  # a correlation by which another indexing must be better than the given one


@dataclass
class ModelInput:
    """The input (module docstring): voxels in the model's setting, their places in the map's volume, what to say."""

    observed: MapOnGrid
    atoms: Atoms
    voxels: Voxels
    operation: np.ndarray
    correlations: dict[str, float]
    notes: list[str]
    description: dict

    def text(self) -> str:
        """What was read, for the log."""
        about = self.description
        lines = [
            f"{about['map']}: {about['n_observed']} voxels were observed, {about['n_voxels']} are used, "
            f"{about['d_max']:.2f} - {about['d_min']:.2f} A, {about['n_held_out']} held out of the fits.",
            f"{about['model']}: {about['n_atoms']} atoms in {about['space_group']}.",
        ]
        if len(self.correlations) > 1:
            tried = ", ".join(f"{name} {cc:+.3f}" for name, cc in self.correlations.items())
            lines.append(f"Indexing, by the correlation with a rigid molecule: {tried}.")
        if about["bulk_solvent"]:
            lines.append(about["bulk_solvent"])
        if about["reindex_operation"] != "h,k,l":
            lines.append(f"The map is reindexed: its (h, k, l) are the model's ({about['reindex_operation']}).")
        return "\n".join(lines)

    def on_grid(self, values: np.ndarray) -> np.ndarray:
        """Values at the voxels as a volume of the map; all equivalents have them, NaN elsewhere."""
        volume = np.full(self.observed.intensity.shape, np.nan)
        places, row = self.description["_places"]
        volume.reshape(-1)[places] = values[row]
        return volume

    def sections(self, fit) -> list[dict]:
        """The central planes: observed, calculated and residual, their anisotropic parts."""
        calculated = self.on_grid(fit.calculated)
        isotropic = self.on_grid(fit.isotropic + _shell_mean(self.voxels, fit))
        observed = np.where(np.isfinite(calculated), self.observed.intensity, np.nan)
        found = []
        for axis in range(3):
            place = int(np.argmin(np.abs(self.observed.axes[axis])))
            if not np.isfinite(np.take(calculated, place, axis)).any():  # Bragg positions
                place = min(place + 1, len(self.observed.axes[axis]) - 1)
            planes = {
                "observed": np.take(observed - isotropic, place, axis),
                "calculated": np.take(calculated - isotropic, place, axis),
                "difference": np.take(observed - calculated, place, axis),
            }
            letters = [letter for k, letter in enumerate("hkl") if k != axis]
            name = "".join(
                f"{self.observed.axes[axis][place]:.3g}" if k == axis else letter for k, letter in enumerate("hkl")
            )
            running = [self.observed.axes[k] for k in range(3) if k != axis]
            found.append({"name": name, "letters": letters, "axes": running, "planes": planes})
        return found


def _shell_mean(voxels: Voxels, fit) -> np.ndarray:
    """What of the calculated intensity is isotropic besides the background (n,)."""
    model = fit.calculated - fit.isotropic
    return model - anisotropic_part(model, voxels.s)


def collect_input(request: DiffuseModelRequest) -> ModelInput:
    """Read the files; raises Sorry for what does not fit together."""
    observed, model = read_map_on_grid(request.map), read_atomic_model(request.structure)
    atoms, notes = make_atoms(model, request)
    map_metric = _reciprocal_metric(observed.unit_cell)
    places, h = _within_limits(request, observed, map_metric)
    operation, correlations = _find_operation(request, observed, atoms, h, observed.intensity.ravel()[places])
    matrix = np.rint(operation)
    atoms = replace(atoms, orthogonal=_orthogonal(np.linalg.inv(matrix).T @ map_metric @ np.linalg.inv(matrix)))
    voxels, row = _make_voxels(request, observed, atoms, (places, h @ matrix.T), _turned_cells(observed.cells, matrix))
    limit = None if request.d_min or observed.has_sigma else signal_limit(voxels)
    if limit is not None:
        notes.append(
            f"Voxels beyond {1.0 / limit:.2f} A are left out: there the map has little but noise (CC1/2 of its "
            f"anisotropic part below {LEAST_CC:g}, by the scatter of equivalents). With a d_min all up to it are used."
        )
        inside = voxels.s <= limit
        here = inside[row]
        places, row, voxels = places[here], (np.cumsum(inside) - 1)[row[here]], voxels.select(inside)
    group = request.space_group or str(model.structure.space_group_info())
    operation_text = reindexing.as_text(operation)
    description = _describe(request, observed, voxels, atoms)
    description |= {
        "bulk_solvent": _on_solvent(request),
        "space_group": group,
        "reindex_operation": operation_text,
        "correlations_by_indexing": correlations,
        "_places": (places, row),
    }
    return ModelInput(observed, atoms, voxels, operation, correlations, notes, description)


def signal_limit(voxels: Voxels) -> float | None:
    """|s| of the outermost shell with signal; None where all have it, or none: then the map is taken as it is."""
    edges, cc = correlations_of_halves(voxels.intensity, voxels.sigma, voxels.s)
    good = np.flatnonzero(cc >= LEAST_CC)
    return None if not len(good) or good[-1] == len(edges) - 1 else float(edges[good[-1]])


def _within_limits(request, observed: MapOnGrid, metric: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The observed voxels within d_max and d_min: their places in the volume, and their indices."""
    h = np.stack([axis.ravel() for axis in np.meshgrid(*observed.axes, indexing="ij")], axis=1)
    s = np.sqrt(np.maximum(np.einsum("ni,ij,nj->n", h, metric, h), 0.0))
    inside = np.isfinite(observed.intensity.ravel()) & (s > 0.0)
    if request.d_min:
        inside &= s <= 1.0 / request.d_min * (1.0 + 1e-9)
    if request.d_max:
        inside &= s >= 1.0 / request.d_max * (1.0 - 1e-9)
    places = np.flatnonzero(inside)
    if not np.isfinite(metric).all():
        raise Sorry(f"The unit cell of {observed.path} is no cell: make the map again with one.")
    if not len(places):
        raise Sorry("No observed voxel of the map lies within d_max and d_min: widen them.")
    return places, h[places]


def _turned_cells(cells: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The voxels an index in the other setting (3,)."""
    if np.allclose(np.abs(matrix).sum(axis=1), 1.0):
        return np.rint(np.abs(matrix) @ cells).astype(int)
    return np.full(3, np.lcm.reduce(cells))


def _make_voxels(request, observed: MapOnGrid, atoms: Atoms, places_and_h, cells) -> tuple[Voxels, np.ndarray]:
    """The voxels in the setting of the model, and which of them each voxel of the map is or is equivalent to."""
    places, h = places_and_h
    orbit = orbits_of(h, cells, atoms.rotations)
    chosen, row, intensity, sigma, exposure = _observations(observed, places, h, orbit, atoms)
    h, orbit, held_out = h[chosen], orbit[chosen], request.held_out
    voxels = Voxels(
        h,
        cells,
        2.0 * np.pi * h @ atoms.reciprocal.T,
        intensity,
        sigma,
        orbit,
        hold_out(h, orbit, held_out.fraction, held_out.by, held_out.seed),
        _poisson(intensity, sigma, exposure),
    )
    needed = FEWEST_PER_PARAMETER * (request.background.n + 10)
    if len(voxels) < needed:
        raise Sorry(
            f"The map has {len(voxels)} voxels that can be used, too few for the models' parameters ({needed} or so): "
            "take a lower d_min, or a smaller background.n."
        )
    if not np.ptp(voxels.intensity) > 0.0:
        raise Sorry("All voxels of the map are the same: it has no anisotropic signal to fit a model to.")
    return voxels, row


def _describe(request, observed: MapOnGrid, voxels: Voxels, atoms: Atoms) -> dict:
    """What is said of the data."""
    poisson = "Poisson" if voxels.poisson is not None else "sigma"
    return {
        "map": observed.path,
        "model": request.structure,
        "unit_cell": list(observed.unit_cell),
        "n_atoms": len(atoms),
        "n_operations": len(atoms.rotations),
        "n_observed": int(np.isfinite(observed.intensity).sum()),
        "n_voxels": len(voxels),
        "n_held_out": int(voxels.held_out.sum()),
        "n_orbits": len(np.unique(voxels.orbit)),
        "d_max": float(1.0 / voxels.s.min()),
        "d_min": float(1.0 / voxels.s.max()),
        "variance": "scatter of equivalents" if not observed.has_sigma else poisson,
        "held_out_by": request.held_out.by,
    }


def make_atoms(model: AtomicModel, request: DiffuseModelRequest) -> tuple[Atoms, list[str]]:
    """The arrays of an atomic model, and notes on it; raises Sorry."""
    from cctbx import crystal, sgtbx

    structure = model.structure
    if request.space_group:
        group = sgtbx.space_group_info(request.space_group).group()
        if not group.is_compatible_unit_cell(structure.unit_cell()):
            raise Sorry(f"space_group={request.space_group} does not fit the unit cell of {model.path}.")
        symmetry = crystal.symmetry(unit_cell=structure.unit_cell(), space_group=group)
        structure = structure.customized_copy(crystal_symmetry=symmetry)
    try:
        factors = choose_form_factors(model.types(), FormFactorChoice(radiation=request.radiation))
    except ValueError as error:
        raise Sorry(f"Form factors of {model.path}: {error}.") from None
    arrays = structure_arrays(structure, factors)
    residue, chain = _residues(request.structure, len(arrays["sites"]))
    atoms = Atoms(**arrays, residue=residue, chain=chain)
    notes = [*model.notes, *factors.notes, *_check_places(atoms, request.structure)]
    if request.bulk_solvent:
        atoms = _in_solvent(atoms, structure, request)
    return atoms, notes


def _check_places(atoms: Atoms, path: str) -> list[str]:
    """Raises Sorry for atoms that are not where the molecule is; a note where that is far from the unit cell."""
    middle = np.median(atoms.sites, axis=0)
    outside = np.flatnonzero((np.abs(atoms.sites - middle) > OUTSIDE).any(axis=1))
    if len(outside):
        x, y, z = atoms.xyz[outside[0]]
        raise Sorry(
            f"{len(outside)} of the {len(atoms)} atoms of {path} lie outside, more than {OUTSIDE:g} unit cells from "
            f"the middle of the others (the first at {x:.1f}, {y:.1f}, {z:.1f} A): correct them, or leave them out."
        )
    if (np.abs(middle - 0.5) <= OUTSIDE).all():
        return []
    cells = ", ".join(f"{value:.1f}" for value in middle)
    return [
        f"All atoms of {path} lie outside of the unit cell, around its fractions {cells}: make sure that they are in "
        "the crystal's frame, as symmetry makes the copies from where they are."
    ]


def _on_solvent(request: DiffuseModelRequest) -> str:
    """What is said of bulk solvent."""
    if not request.bulk_solvent:
        return ""
    return (
        f"Atoms displace bulk solvent of k_sol {request.k_sol:g} e/A^3 and b_sol {request.b_sol:g} A^2, which are held "
        "at these values, not fitted."
    )


def _in_solvent(atoms: Atoms, structure, request: DiffuseModelRequest) -> Atoms:
    """The atoms in bulk solvent, whose part of the cell is that of cctbx's mask."""
    lengths = structure.unit_cell().parameters()[:3]
    _, fraction = calculate_f_mask(structure, structure.build_miller_set(False, d_min=max(lengths) / 3.0))
    heavy = ~np.array(structure.hd_selection(), bool)
    kinds = np.bincount(atoms.kind, heavy) > 0.0
    k_sol = request.k_sol * WATER[request.radiation] / WATER["xray"]
    return displace_solvent(atoms, kinds, fraction, k_sol, request.b_sol)


def _residues(path: str, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The residue (int) and chain (str) of each atom; of a file without, one."""
    import iotbx.pdb

    try:
        hierarchy = iotbx.pdb.input(file_name=path).construct_hierarchy(
            sort_atoms=False
        )  # atoms know their parents while it lives
        keep = [one for one in hierarchy.atoms() if one.occ > 0.0]
        names = [(one.parent().parent().parent().id, one.parent().parent().resid()) for one in keep]
    except Exception:  # a small molecule, or whatever else has no residues
        names = []
    if len(names) != n:
        return np.zeros(n, int), np.full(n, "A")
    numbers = {name: k for k, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names]), np.array([name[0] for name in names])


def _reciprocal_metric(cell) -> np.ndarray:
    from cctbx import uctbx

    a, b, c, ab, ac, bc = uctbx.unit_cell(tuple(cell)).reciprocal_metrical_matrix()
    return np.array([[a, ab, ac], [ab, b, bc], [ac, bc, c]])


def _orthogonal(reciprocal_metric: np.ndarray) -> np.ndarray:
    """A of a cell in the usual Cartesian frame."""
    from cctbx import uctbx

    g = np.linalg.inv(reciprocal_metric)
    cell = uctbx.unit_cell(metrical_matrix=(g[0, 0], g[1, 1], g[2, 2], g[0, 1], g[0, 2], g[1, 2]))
    return np.array(cell.orthogonalization_matrix()).reshape(3, 3)


def _find_operation(request, observed: MapOnGrid, atoms: Atoms, h, values) -> tuple[np.ndarray, dict[str, float]]:
    """The operation M on the map's indices, and the correlations of those that were tried."""
    of_map, of_model = _reciprocal_metric(observed.unit_cell), np.linalg.inv(atoms.orthogonal.T @ atoms.orthogonal)
    found = reindexing.candidates(of_map, of_model, atoms.rotations)
    if not found:
        model_cell = ", ".join(f"{x:.2f}" for x in np.linalg.norm(atoms.orthogonal, axis=0))
        map_cell = ", ".join(f"{x:.2f}" for x in observed.unit_cell[:3])
        raise Sorry(
            f"The cell of the model ({model_cell} A) is not that of the map ({map_cell} A), however it is indexed: "
            "give the model of this crystal."
        )
    if request.reindex_operation:
        try:
            return reindexing.from_text(request.reindex_operation), {}
        except ValueError as error:
            raise Sorry(f"reindex_operation: {error}.") from None
    if len(found) == 1:
        return found[0], {}
    tried = np.arange(0, len(h), max(1, len(h) // MOST_TRIED))
    correlations = {}
    for m in found:
        turned = h[tried] @ m.T
        metric = np.linalg.inv(m).T @ of_map @ np.linalg.inv(m)
        there = replace(atoms, orthogonal=_orthogonal(metric))
        cells = np.full(3, np.lcm.reduce(observed.cells))
        nothing = np.zeros(len(tried))
        voxels = Voxels(turned, cells, 2.0 * np.pi * turned @ there.reciprocal.T, nothing, nothing, nothing, nothing)
        calculated = RigidBody([there], voxels).evaluate(np.array([0.3]))[0]
        every = np.ones(len(tried), bool)
        correlations[reindexing.as_text(m)] = float(
            np.nan_to_num(anisotropic_correlation(values[tried], calculated, voxels.s, every))
        )
    each = list(correlations.values())
    best = int(np.argmax(each))
    return found[best if each[best] > each[0] + BETTER else 0], correlations


def _observations(observed: MapOnGrid, places, h, orbit, atoms: Atoms):
    """
    Which voxels are used, which of them each voxel is or is equivalent to; their intensity, sigma and exposure (NaN
    where unknown).

    Of an averaged map one voxel of each orbit; where there is no sigma the mean of each orbit, its sigma from the
    scatter of the equivalents in its shell.
    """
    intensity = observed.intensity.ravel()[places]
    _, first, row = np.unique(orbit, return_index=True, return_inverse=True)
    row = row.reshape(-1)
    sigma, exposure = observed.sigma.flat[places], observed.exposure.flat[places]
    if observed.has_sigma and observed.averaged == "p1":
        every = np.arange(len(places))
        return every, every, intensity, sigma, exposure
    if observed.has_sigma:
        if observed.averaged == "friedel":
            first, row = np.unique(
                orbits_of(h, np.full(3, 60), np.eye(3, dtype=int)[None]), return_index=True, return_inverse=True
            )[1:]
            row = row.reshape(-1)
        return first, row, intensity[first], sigma[first], exposure[first]
    n = np.bincount(row)
    mean = np.bincount(row, intensity) / n
    s = np.linalg.norm(h @ atoms.reciprocal.T, axis=1)
    shell = np.minimum((40 * s / s.max()).astype(int), 39)
    if (n > 1).mean() > 0.5:
        squares = np.bincount(shell, (intensity - mean[row]) ** 2 * (n / np.maximum(n - 1, 1))[row], 40)
        counts = np.bincount(shell, (n > 1)[row].astype(float), 40)
    else:
        squares = np.bincount(shell, anisotropic_part(intensity, s) ** 2, 40)
        counts = np.bincount(shell, minlength=40)
    of_shell = np.sqrt(squares / np.maximum(counts, 1))
    of_shell[of_shell == 0.0] = np.median(of_shell[of_shell > 0.0]) if (of_shell > 0.0).any() else 1.0
    return first, row, mean, of_shell[shell[first]] / np.sqrt(n), np.full(len(first), np.nan)


def _poisson(intensity, sigma, exposure) -> PoissonLaw | None:
    """The law sigma^2 = L I/exposure where that is how it is, None else."""
    if np.isnan(exposure).all() or (intensity <= 0.0).mean() > 0.5:
        return None
    positive = intensity > 0.0
    ratio = sigma[positive] ** 2 * exposure[positive] / intensity[positive]
    level = float(np.median(ratio))
    return PoissonLaw(level, exposure) if np.median(np.abs(ratio - level)) < POISSON * level else None
