"""
How near the merged amplitudes come to the truth when DIALS finds, indexes and integrates the spots of simulated images.

    python benchmarks/pixel_stills.py FOLDER [stills] [seed] [reference.mtz]

FOLDER keeps images, integrated stills and truth; running again uses what is there, so that each seed needs a folder of
its own.  F^2 comes from the MTZ (lysozyme's cell, P43212) or a random structure; the seed changes that structure, the
crystals, their orientations and the noise.  The simulator shares nothing with dials_postrefine: kinematic, far field,
without point spread, gain 1, Poisson noise; the expected counts of a pixel are

    I = K F^2 P (dOmega / lambda^2) <rho(q - R_k A h)>_{k, lambda} + background,   rho(x) = D^3 exp(-pi D^2 x^2)

with the squared shape transform rho of a mosaic block of size D (nanoBragg's `gauss`), averaged over the rotations R_k
of the blocks, the wavelengths of the band and OVERSAMPLE^2 points of the pixel; q = s1 - s0, P = (1 + cos^2 2theta)/2.
The blocks are normal and quasi-random: with D = 1020 and 0.026 degrees the totals of the spots are within 0.2 % of
those of many more; ten random blocks scatter them by 7 (d > 4) to 17 % (d < 2.5).  K (pulse energy, volume, isotropic
B), D, mosaic spread and cell differ between the crystals.  Reflections count up to N_WIDTHS from the Ewald sphere.

R = sum|F - F_true|/sum F_true after one scale and one isotropic B (simulate/truth.py), of all merged reflections and
of the 90 % whose amplitudes have the smallest sigma(I)/(2 sqrt(I)) (of the plain mean: the highest multiplicity).  Then
what limits R: DIALS' intensities with the true scale and partiality, and noise-free ones with the refined.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation
from scipy.stats import qmc

from dials_postrefine.files.reference.alignment import align, read_reference
from dials_postrefine.numerics.correlation import correlation
from dials_postrefine.programs.stills_input import StillsFiles, read_stills
from dials_postrefine.simulate.truth import r_to_truth
from dials_postrefine.stills.crossvalidation import merge_half_sets
from dials_postrefine.stills.dataset import Stills
from dials_postrefine.stills.filters import LatticeFilters
from dials_postrefine.stills.fits import FitSettings
from dials_postrefine.stills.loop import DatasetSettings, postrefine
from dials_postrefine.stills.merging import Merged, merge
from dials_postrefine.stills.model import RADII, UNIT_CELLS
from dials_postrefine.stills.reference import make_reference
from dials_postrefine.stills.scaling import linear_scales
from dials_postrefine.stills.selection import Candidates, choose_model
from dials_postrefine.stills.statistics import ResolutionShells, collect_statistics

CELL, SPACE_GROUP = (79.34, 79.34, 37.81, 90.0, 90.0, 90.0), "P43212"
WAVELENGTH, BANDWIDTH, D_MIN = 1.3, 0.0008, 1.8  # Angstrom, sigma of lambda over lambda, Angstrom
N_PIXELS, PIXEL, DISTANCE = 1536, 0.15, 126.0  # mm
PHOTONS = 600.0  # of an average reflection of the average crystal on the Ewald sphere, where its width is 3e-4/Angstrom
N_BLOCKS, N_WAVELENGTHS, OVERSAMPLE, ROI, N_WIDTHS, MOSAIC_SPREAD = 128, 7, 3, 9, 4.0, np.radians(0.045)
HEADER = f"""HEADER_BYTES=512 DIM=2 BYTE_ORDER=little_endian TYPE=unsigned_short SIZE1={N_PIXELS} SIZE2={N_PIXELS}
    PIXEL_SIZE={PIXEL} DISTANCE={DISTANCE} BEAM_CENTER_X={N_PIXELS * PIXEL / 2} BEAM_CENTER_Y={N_PIXELS * PIXEL / 2}
    WAVELENGTH={WAVELENGTH} OSC_START=0 OSC_RANGE=0 TIME=1 GAIN=1"""  # SMV, as of an ADSC detector
SETTINGS = f"""mp.nproc=1 output.composite_output=True output.integrated_experiments_filename=integrated.expt
    output.integrated_filename=integrated.refl indexing.known_symmetry.space_group={SPACE_GROUP}
    indexing.known_symmetry.unit_cell={",".join(map(str, CELL))} prediction.d_min={D_MIN}
    geometry.beam.polarization_fraction=0.5"""
MOSAIC = FitSettings(profile="gaussian", radius="mosaic")
BEST = replace(MOSAIC, unit_cell="scale")
UNFILTERED = LatticeFilters(min_partial_correlation=-1.0, parameter_z=np.inf)
PROTOTYPE = replace(MOSAIC, loss="student_t", min_correlation=-1.0)
LIMITED = "gaussian, mosaic, unit_cell=scale"
MODELS = {
    "lorentzian, constant": DatasetSettings(),
    "gaussian, mosaic": DatasetSettings(fit=MOSAIC),
    LIMITED: DatasetSettings(fit=BEST),
    "prototype recipe": DatasetSettings(fit=PROTOTYPE, restraints=False, error_model="none", filters=UNFILTERED),
    "gaussian, mosaic, scale, against the truth": DatasetSettings(fit=BEST),
}


def random_structure(seed: int):
    """Intensities of 1000 atoms at random places, as a Miller array."""
    from cctbx import crystal, xray
    from cctbx.array_family import flex

    rng = np.random.default_rng(seed)
    atoms = [xray.scatterer("N", tuple(rng.random(3)), u=rng.uniform(0.15, 0.35)) for _ in range(1000)]
    atoms = flex.xray_scatterer(atoms)
    structure = xray.structure(crystal_symmetry=crystal.symmetry(CELL, SPACE_GROUP), scatterers=atoms)
    return structure.structure_factors(d_min=0.97 * D_MIN, algorithm="fft").f_calc().as_intensity_array()


def read_structure_factors(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Indices (n, 3) of the whole sphere and their intensities (n,), of mean one."""
    from iotbx.reflection_file_reader import any_reflection_file

    array = next(a for a in any_reflection_file(str(path)).as_miller_arrays() if a.is_real_array())
    array = array if array.is_xray_intensity_array() else array.as_intensity_array()
    array = array.customized_copy(anomalous_flag=False).expand_to_p1().generate_bijvoet_mates()
    intensity = np.array(array.data())
    return np.array(array.indices()), intensity / intensity.mean()


def simulate_image(rng: np.random.Generator, h: np.ndarray, f_sq: np.ndarray) -> tuple[np.ndarray, dict]:
    """One image (N_PIXELS, N_PIXELS), and the truth: A, and of each spot h, F^2 and scale times partiality."""
    size, spread = rng.uniform(1500.0, 2500.0), MOSAIC_SPREAD * rng.lognormal(0.0, 0.3)
    pulse, volume = rng.lognormal(0.0, 0.3), rng.lognormal(0.0, 0.6)
    b_factor, cell_scale = rng.normal(0.0, 4.0), rng.normal(1.0, 0.0008)
    a_matrix = Rotation.random(random_state=rng).as_matrix() / (np.array(CELL[:3]) * cell_scale)
    turns = qmc.MultivariateNormalQMC(np.zeros(3), spread**2 * np.eye(3), seed=rng).random(N_BLOCKS)
    blocks = Rotation.from_rotvec(turns).as_matrix()
    offset = np.linspace(-2.5, 2.5, N_WAVELENGTHS)
    wavelengths, weights = WAVELENGTH * (1.0 + BANDWIDTH * offset), np.exp(-0.5 * offset**2)
    weights = weights / weights.sum() / wavelengths**2
    q = h @ a_matrix.T
    q_sq = np.sum(q**2, axis=1)
    s1 = q - [0.0, 0.0, 1.0 / WAVELENGTH]
    width = np.sqrt(0.5 / np.pi / size**2 + spread**2 * q_sq + (0.5 * BANDWIDTH * WAVELENGTH * q_sq) ** 2)
    place = np.rint(s1[:, 1::-1] / s1[:, 2:] * [1.0, -1.0] * DISTANCE / PIXEL + 0.5 * (N_PIXELS - 1))  # row, column
    inside = (np.abs(place - 0.5 * (N_PIXELS - 1)) <= 0.5 * (N_PIXELS - ROI)).all(axis=1) & (s1[:, 2] < 0.0)
    spots = np.flatnonzero(inside & (np.abs(np.linalg.norm(s1, axis=1) - 1.0 / WAVELENGTH) < N_WIDTHS * width))
    # counts of a reflection of F^2 = 1 and P = 1 are this times dOmega/lambda^2 times the average of rho
    k = pulse * volume * PHOTONS * np.sqrt(2.0 * np.pi) * 3e-4 * np.exp(-0.5 * b_factor * q_sq)
    u, polarisation, omega = pixel_geometry(*np.ogrid[:N_PIXELS, :N_PIXELS])
    r = np.linalg.norm(u + [0.0, 0.0, 1.0], axis=-1) / WAVELENGTH
    image = 14.0 * np.exp(-0.5 * (r / 0.12) ** 2) + 7.0 * np.exp(-0.5 * ((r - 0.31) / 0.06) ** 2) + 2.5  # air, water
    image *= pulse * polarisation * omega / omega.max()
    fine, partial = (np.arange(ROI * OVERSAMPLE) + 0.5) / OVERSAMPLE - 0.5 * ROI, np.zeros(len(spots))
    for i, spot in enumerate(spots):
        u, polarisation, omega = pixel_geometry(place[spot, 0] + fine[:, None], place[spot, 1] + fine)
        x = (u.reshape(-1, 3) + [0.0, 0.0, 1.0]) / wavelengths[:, None, None] - q[spot]
        y = q[spot] @ blocks.transpose(0, 2, 1) - q[spot]
        rho = shape_transform(x.reshape(-1, 3), y, size).reshape(N_WAVELENGTHS, -1)
        counts = k[spot] * omega.ravel() / OVERSAMPLE**2 * (weights @ rho)
        partial[i] = counts.sum()
        counts = (f_sq[spot] * polarisation.ravel() * counts).reshape(ROI, OVERSAMPLE, ROI, OVERSAMPLE)
        top, left = place[spot].astype(int) - ROI // 2
        image[top : top + ROI, left : left + ROI] += counts.sum(axis=(1, 3))
    truth = {"a_matrix": a_matrix, "h": h[spots], "known": np.column_stack([partial, f_sq[spots]])}
    return np.minimum(rng.poisson(image), 65535).astype("<u2"), truth


def shape_transform(x: np.ndarray, y: np.ndarray, size: float) -> np.ndarray:
    """The average over the centres y (k, 3) of D^3 exp(-pi D^2 |x - y|^2) at the points x (n, 3): (n,)."""
    x, y = np.sqrt(np.pi) * size * x, np.sqrt(np.pi) * size * y
    left = np.column_stack([2.0 * x, -np.sum(x**2, axis=1), np.ones(len(x))]).astype(np.float32)
    right = np.column_stack([y, np.ones(len(y)), -np.sum(y**2, axis=1)]).astype(np.float32)
    return size**3 * np.exp(left @ right.T).mean(axis=1)


def pixel_geometry(row: np.ndarray, column: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Direction, polarisation factor and solid angle of pixels; the beam runs along -z, y is up, rows run down."""
    x, y = (column + 0.5 - 0.5 * N_PIXELS) * PIXEL, (0.5 * N_PIXELS - 0.5 - row) * PIXEL
    r = np.sqrt(x**2 + y**2 + DISTANCE**2)
    u = np.stack(np.broadcast_arrays(x / r, y / r, -DISTANCE / r), axis=-1)
    return u, 0.5 * (1.0 + u[..., 2] ** 2), PIXEL**2 * DISTANCE / r**3


def integrate(folder: Path, images: list[Path]) -> None:
    """Spots, indexing and integration: integrated.expt and integrated.refl in the folder."""
    environment = dict(os.environ)
    if importlib.util.find_spec("xfel_mono_sim_ext") is None:  # Debian's DIALS 3.12 lacks it, and indexes nothing then
        (folder / "xfel_mono_sim_ext.py").touch()
        environment["PYTHONPATH"] = os.pathsep.join([str(folder), environment.get("PYTHONPATH", "")])
    command = ["dials.stills_process", *(image.name for image in images), *SETTINGS.split()]
    subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, check=True)


def simulate(folder: Path, n_stills: int, seed: int) -> list[Path]:
    """The images still_0000.img ... of the folder, those that are missing being made, and beside each its truth."""
    h, f_sq = read_structure_factors(folder / "truth.mtz")
    header = ("{\n" + "".join(f"{item};\n" for item in HEADER.split()) + "}\n").encode().ljust(512)
    images = [folder / f"still_{number:04d}.img" for number in range(n_stills)]
    for number, path in enumerate(images):
        if not path.with_suffix(".npz").is_file():
            image, truth = simulate_image(np.random.default_rng([number, 1 + seed]), h, f_sq)
            path.write_bytes(header + image.tobytes())
            np.savez(path.with_suffix(".npz"), **truth)
    return images


def known_spots(folder: Path, files: StillsFiles) -> np.ndarray:
    """The simulator's scale times partiality, and F^2, of each observation (n, 2); NaN where it has no spot."""
    known = []
    for k, experiment in enumerate(files.experiments):
        truth = np.load((folder / Path(experiment.imageset.paths()[0]).name).with_suffix(".npz"))
        spots = dict(zip(map(tuple, truth["h"]), truth["known"]))
        operation = np.rint(np.linalg.solve(truth["a_matrix"], files.stills.a_matrix[k]))  # indexed equivalently
        h = files.stills.h[files.stills.rows(k)] @ operation.T
        known += [spots.get(index, (np.nan, np.nan)) for index in map(tuple, h)]
    return np.array(known)


def report(name: str, files: StillsFiles, truth: np.ndarray, merged: Merged, more: str = "") -> float:
    """One row, and gives R: R, R of the better 90 %, and what was merged."""
    intensity = np.where(files.stills.absent, np.nan, merged.intensity)
    seen = np.flatnonzero(np.isfinite(intensity) & (truth > 0.0))
    weighted = np.any(merged.sum_w != merged.n)
    sigma_f = merged.sigma / np.sqrt(np.maximum(intensity, merged.sigma)) if weighted else -merged.n
    order = seen[np.argsort(sigma_f[seen], kind="stable")]
    some = order, order[: round(0.9 * len(order))]
    r, r_best = (r_to_truth(intensity[i], truth[i], files.d_star_sq[i])[0] for i in some)
    print(
        f"{name:42s}  {r:.4f}  {r_best:.4f}     {len(seen):6d}  {len(seen) / len(files.complete):8.1%}  {more}",
        flush=True,
    )
    return r


def truly_merged(stills: Stills, partial: np.ndarray, kept: np.ndarray) -> Merged:
    """The kept observations (n,) merged with the true scales times partialities (n,): what the counts alone leave."""
    value, variance = stills.intensity[kept] / partial[kept], stills.variance[kept] / partial[kept] ** 2
    return merge(value, variance, stills.unique[kept], stills.n_unique)


def evaluate(folder: Path) -> None:
    """Print the table, and what limits R."""
    files = read_stills([str(folder / "integrated.expt")], [str(folder / "integrated.refl")])
    stills, unique, n = files.stills, files.stills.unique, files.stills.n_unique
    truth = align(files.h_unique, *read_reference(str(folder / "truth.mtz"), files.space_group, files.cell))
    print(f"{stills.n_lattices} lattices, {len(unique)} reflections, {n} unique")
    print(f"{'':42s}  R       best 90 %  merged  complete  rejected  CC1/2 conventional, honest")
    scaled, ones = stills.intensity / linear_scales(stills, None)[stills.lattice()], np.ones(len(unique))
    second = stills.half[stills.lattice()]
    halves = np.array([merge(scaled[s], ones[s], unique[s], n).intensity for s in (~second, second)])
    cc_half = correlation(*halves[:, np.isfinite(halves).all(axis=0)])
    report("linear scaling, plain mean", files, truth, merge(scaled, ones, unique, n), f"{0:8d}  {cc_half:15.4f}")
    partial, f_sq = known_spots(folder, files).T
    exact = replace(stills, intensity=partial * f_sq)
    results, kept_of = {}, {}
    choice = choose_model(stills, DatasetSettings(), Candidates(None, RADII, UNIT_CELLS), tests_gain=True)
    fit = choice.settings.fit
    print(f"The plain command chooses {fit.profile}, {fit.radius}, {fit.unit_cell}.")
    for name, settings in {"plain command": choice.settings, **MODELS}.items():
        own = not name.endswith("truth")
        results[name] = result = postrefine(stills, settings, make_reference(None if own else truth))
        halves = merge_half_sets(stills, settings, files.d_star_sq) if own else None
        shells = ResolutionShells(files.d_star_sq, files.complete)
        statistics = collect_statistics(stills, result, shells, independent=halves)
        after, rejected = statistics.after[-1], np.count_nonzero(~result.accepted)
        more = f"{rejected:8d}  {after.cc_half:15.4f}  {after.cc_half_honest:6.4f}"
        r = report(name, files, truth, statistics.merged, more)
        kept_of[name] = kept = result.kept & ~result.outlier & (exact.intensity > 0.0)
        if name == "plain command":
            r_limit = report(
                "    true scale and partiality: the limit", files, truth, truly_merged(stills, partial, kept)
            )
            print(f"    plain command over the limit: {r / r_limit:.3f}", flush=True)
    result, kept = results[LIMITED], kept_of[LIMITED]
    print(f"\nWhat limits R, with {LIMITED}:")
    report("true scale and partiality", files, truth, truly_merged(stills, partial, kept))
    report("noise-free totals", files, truth, merge(*result.merging_values(exact, kept), unique[kept], n))
    print(f"CC of intensities and noise-free totals {correlation(stills.intensity[kept], exact.intensity[kept]):.5f}")
    p, off = result.partiality[kept], np.log((result.partiality * result.scale / partial)[kept])
    print("ln(refined/true) of scale times partiality by refined p, of 0.2 0.4 0.6 0.8 1: median and spread (IQR/1.35)")
    for low in (0.2, 0.4, 0.6, 0.8):
        lower, median, upper = np.percentile((off - np.median(off))[(p >= low) & (p < low + 0.2)], [25, 50, 75])
        print(f"{median:+.3f} {(upper - lower) / 1.35:.3f}", end="  " if low < 0.8 else "\n")


def main(folder: str, n_stills: int = 200, seed: int = 0, reference: str | None = None) -> None:
    """Simulate and integrate what is missing, then evaluate."""
    path, truth = Path(folder).resolve(), Path(folder).resolve() / "truth.mtz"
    path.mkdir(parents=True, exist_ok=True)
    if reference and not truth.is_file():
        shutil.copy(reference, truth)
    elif not truth.is_file():
        random_structure(seed).as_mtz_dataset(column_root_label="I").mtz_object().write(str(truth))
    if not (path / "integrated.expt").is_file():
        integrate(path, simulate(path, n_stills, seed))
    evaluate(path)


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[2:4] if argument.isdigit()]
    main(sys.argv[1], *numbers, **dict(zip(("reference",), sys.argv[2 + len(numbers) :])))
