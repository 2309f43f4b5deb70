"""Every pair of options of dials.diffuse_map on images of known intensity: no two of them spoil the map together."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from pairwise import all_pairs, check, factors, value_of

from dials_postrefine.settings.scope import load

pytestmark = [pytest.mark.dials]
pytest.importorskip("numba", reason="numba is not installed: dials.diffuse_map needs it")

VARIED = {
    "d_min": ("2.2", "2.6"),
    "d_max": ("None", "12"),
    "image_range": ("None", "2,7"),
    "grid.subdivide": ("2,2,2", "1,2,1"),
    "grid.spacing": ("None", "0.03"),
    "space_group": ("None", "P1"),
    "mask.n_sigma": ("4.0", "2.0"),
    "mask.box": ("0.25", "0.15"),
    "mask.file": ("None", "mask.pickle"),
    "polarization_fraction": ("None", "0.9"),
    "background.experiments": ("None", "empty.expt"),
    "background.scale": ("1.0", "0.5"),
    "reject.n_sigma": ("None", "6"),
    "sampling.phi_steps": ("1", "3"),
    "exposure_time": ("None", "0.8"),
    "background.exposure_time": ("None", "6"),
    "read_noise": ("0.0", "0.5"),
}
CONSTANT = {
    "input.*": "names of files",
    "output.*": "names of files",
    "add": "takes no images: test_two_halves_added_are_one_run_on_all",
    "mask.ice_rings.unit_cell": "where rings are, nothing else: mask.ice_rings.filter is varied",
    "mask.ice_rings.space_group": "where rings are, nothing else: mask.ice_rings.filter is varied",
    "mask.ice_rings.width": "where rings are, nothing else: mask.ice_rings.filter is varied",
    "mask.max_fraction": "only stops the run",
    "mask.max_counts": "a limit of the trusted range in one place (files.images), which test_pixels has",
    "gain": "in place of the model's in one place (files.images), whose value test_recovery has",
    "pedestal": "in place of the model's in one place (files.images), whose value test_recovery has",
    "allow_bad_images": "only stops the run",
    "mp.nproc": "test_the_number_of_processes_changes_no_bit",
    "mp.method": "tests/command_line/test_mpi.py",
    "n_shells": "how statistics are cut up, not the map",
    "planes": "what the report shows",
    "absolute.*": "what the report says beside the map: test_diffuse_map_absolute.py",
}
FACTORS = factors(load("diffuse_map"), VARIED, CONSTANT)
ROWS = all_pairs(FACTORS)

K, WAVELENGTH, FRACTION, MEAN = 1.7, 1.0, 0.9, 5.0
EXPOSURE, EXPOSURE_OFF = 1.0, 5.0  # s, with and without crystal
WAVES = ((0.10, 0.05, 0.03), (0.04, 0.12, 0.06))
QUIET = [f"output.{name}=None" for name in ("ccp4", "anisotropic", "mtz", "radial", "html")]


def air(s):
    """An isotropic background, photons / (s sr)."""
    return 1e4 * np.exp(-8.0 * np.linalg.norm(s, axis=-1) ** 2)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with a series, its reflections, images without crystal and a mask; and what the images are made of."""
    from dials.algorithms.profile_model.gaussian_rs import Model
    from dials.array_family import flex
    from dxtbx import flumpy
    from dxtbx.model import ExperimentList

    from dials_postrefine.files.images.geometry import air_attenuation
    from dials_postrefine.simulate.diffuse import SmoothIntensity
    from dials_postrefine.simulate.image_files import write_series
    from dials_postrefine.simulate.image_models import SeriesOptions, make_experiments
    from dials_postrefine.simulate.images import ImageOptions, intensity_of, with_mean_counts

    folder = tmp_path_factory.mktemp("pairs")
    series = {
        "n_images": 8,
        "oscillation": 1.0,
        "beam_tilt": 0.0,
        "polarization_fraction": FRACTION,
        "exposure": EXPOSURE,
    }
    options = ImageOptions(n_phi=2, mu_air=air_attenuation(WAVELENGTH))
    experiments = make_experiments(SeriesOptions(**series))
    intensity = intensity_of(SmoothIntensity, experiments[0].crystal, waves=WAVES)
    intensity = with_mean_counts(intensity, MEAN, experiments[0], options)
    path = write_series(experiments, intensity, folder / "data", options, scales=[K] * 8, background=air, seed=3)
    empty = make_experiments(SeriesOptions(**{**series, "n_images": 4, "exposure": EXPOSURE_OFF, "name": "empty"}))
    write_series(empty, None, folder / "empty", options, background=air, seed=4)

    known = ExperimentList.from_file(str(path), check_format=False)
    known[0].profile = Model(None, 3, 0.10, 0.15, deg=True)
    known.as_file(str(path))
    table = flex.reflection_table.from_predictions(known[0], dmin=2.2)
    table["id"] = flex.int(len(table), 0)
    table.experiment_identifiers()[0] = known[0].identifier
    table.compute_bbox(known)
    table["inverse_scale_factor"] = flex.double(len(table), K)
    table.as_file(str(folder / "data.refl"))
    panel = known[0].detector[0]
    mask = np.ones(panel.get_image_size()[::-1], bool)
    mask[:40, :30] = False
    (folder / "mask.pickle").write_bytes(pickle.dumps((flumpy.from_numpy(mask),)))
    return folder, known[0], intensity


def truth(row, experiment, intensity, h, s, cell_of_h):
    """What the map should be at voxels h (n, 3) with |s| (n,), averaged over voxels with edges cell_of_h (3, 3)."""
    from dials_postrefine.files.images.geometry import air_attenuation

    points, weights = np.array([-np.sqrt(0.6), 0.0, np.sqrt(0.6)]) / 2.0, np.array([5.0, 8.0, 5.0]) / 18.0
    mean = sum(
        weights[a] * weights[b] * weights[c] * intensity(h + cell_of_h @ [points[a], points[b], points[c]])
        for a in range(3)
        for b in range(3)
        for c in range(3)
    )
    off = float(value_of(row, "background.scale")) if value_of(row, "background.experiments") != "None" else 0.0
    time, time_off = (value_of(row, name) for name in ("exposure_time", "background.exposure_time"))
    total = (K * mean + air(s[:, None])) * (1.0 if time == "None" else EXPOSURE / float(time))
    total -= off * air(s[:, None]) * (1.0 if time_off == "None" else EXPOSURE_OFF / float(time_off))
    if value_of(row, "scale.model") == "from_refl":
        total /= K
    panel = experiment.detector[0]
    cosine = np.cos(2.0 * np.arcsin(0.5 * WAVELENGTH * s))

    def without(name):
        return value_of(row, f"corrections.{name}") == "False"

    if without("solid_angle"):
        total *= cosine**3
    if without("polarization"):  # its mean over the azimuth
        total *= 0.5 * (1.0 + cosine**2)
    if without("efficiency"):
        total *= 1.0 - np.exp(-panel.get_mu() * panel.get_thickness() / cosine)
    if without("air"):
        total *= np.exp(-air_attenuation(WAVELENGTH) * panel.get_distance() / cosine)
    return total


def read(path, experiment):
    """Of the observed voxels of a map: h (n, 3), |s|, intensity, sigma, pixels; and the edges of a voxel in indices."""
    import h5py

    from cctbx import uctbx

    cell = uctbx.unit_cell(experiment.crystal.get_unit_cell().parameters())
    b = np.array(cell.fractionalization_matrix()).reshape(3, 3).T
    with h5py.File(path, "r") as file:
        data = file["entry/map"]
        names = [name.decode() if isinstance(name, bytes) else name for name in data.attrs["axes"]]
        axes = [data[name][()] for name in names]
        values = [data[name][()] for name in ("intensity", "sigma", "pixels")]
    seen = np.isfinite(values[0])
    x = np.stack([axis[place] for axis, place in zip(axes, np.nonzero(seen))], axis=1)
    edges = np.diag([axis[1] - axis[0] for axis in axes])
    if names[0] == "x":
        x, edges = x @ np.linalg.inv(b).T, np.linalg.inv(b) @ edges
    return x, np.linalg.norm(x @ b.T, axis=1), *(value[seen] for value in values), edges


def test_the_table_has_every_pair():
    check(ROWS, FACTORS)


@pytest.mark.parametrize("number", range(len(ROWS)))
def test_every_pair_of_options(data, tmp_path, monkeypatch, number):
    monkeypatch.chdir(tmp_path)
    check_row(data, ROWS[number], tmp_path)


def check_row(data, row, tmp_path) -> None:
    """Run in tmp_path and compare with the truth."""
    from dials_postrefine.command_line.diffuse_map import run

    folder, experiment, intensity = data
    given = [item for item in row if not item.endswith(("mask.pickle", "empty.expt"))]
    given += [f"{p}={folder / f}" for p, f in (("mask.file", "mask.pickle"), ("background.experiments", "empty.expt"))
              if value_of(row, p) == f]  # fmt: skip
    run([str(folder / "data.expt"), str(folder / "data.refl"), *given, *QUIET])
    found = json.loads((tmp_path / "dials.diffuse_map.json").read_text())
    h, s, mean, sigma, pixels, edges = read(tmp_path / "diffuse.nxs", experiment)
    true = truth(row, experiment, intensity, h, s, edges)

    # mean: of all, and in thirds of |s|, where there is enough
    chosen = s > 0.06
    for part in np.array_split(np.flatnonzero(chosen)[np.argsort(s[chosen])], 3):
        weight = pixels[part]
        assert np.average(mean[part], weights=weight) == pytest.approx(
            np.average(true[part], weights=weight), rel=0.06
        ), row
    # pulls, of the sampled voxels
    offset, own_scales = value_of(row, "background.radial") == "offset", value_of(row, "scale.model") in (
        "per_image", "smooth", "auto", "full")  # fmt: skip
    good = chosen & (pixels > 4.0)
    pulls = (mean[good] - true[good]) / sigma[good]
    spread = 1.4826 * np.median(np.abs(pulls - np.median(pulls)))
    independent = value_of(row, "sampling.phi_steps") == "1"
    if not offset and value_of(row, "corrections.polarization") == "True":
        assert (0.85 if independent else 0.6) < spread < (1.6 if own_scales else 1.2), (spread, row)
    assert found["shells"][-1]["chi_sq"] == pytest.approx(1.0, abs=0.25), row
    # completeness: of the detector's pixels within the limits all but the masked ones
    d_min, d_max = float(value_of(row, "d_min")), value_of(row, "d_max")
    n_fast, n_slow = experiment.detector[0].get_image_size()
    resolution = np.array([
        experiment.detector[0].get_resolution_at_pixel(experiment.beam.get_s0(), (i + 0.5, j + 0.5))
        for j in range(n_slow) for i in range(n_fast)
    ]).reshape(n_slow, n_fast)  # fmt: skip
    inside = (resolution > d_min) & (resolution < (np.inf if d_max == "None" else float(d_max)))
    if value_of(row, "mask.file") != "None":
        inside[:40, :30] = False
    for image in found["images"]:
        ratio = image["n_pixels"] / inside.sum()
        if value_of(row, "mask.ice_rings.filter") == "False":
            assert ratio == pytest.approx(1.0, abs=0.03), row
        else:
            assert 0.5 < ratio < 0.999, row
        assert image["error"] is None
    counted = found["pixels"]
    assert counted["n_input"] == n_fast * n_slow * len(found["images"])
    assert counted["n_input"] == counted["n_averaged"] + sum(counted["not_used"].values()), row
    assert all(n > 0 for n in counted["not_used"].values()), row
    assert (found["rejected"] or 0.0) < 1e-3, row
    kind, box = value_of(row, "mask.bragg"), float(value_of(row, "mask.box"))
    if kind == "none":
        assert found["masked"] == 0.0
    elif kind == "box" and independent:
        assert found["masked"] == pytest.approx((2.0 * box) ** 3, rel=0.2)
    else:
        assert 0.0 < found["masked"] < 0.5
    assert found["n_images_used"] == (8 if value_of(row, "image_range") == "None" else 6)


def photons_of_a_wrong_gain(sums, images):
    from dials_postrefine.diffuse.map import columns

    sums[:, [columns.COUNTS, columns.HALF_COUNTS]] = sums[:, [columns.COUNTS, columns.HALF_COUNTS]] * 11 // 10


def times_of_half(sums, images):
    from dials_postrefine.diffuse.map import columns

    sums[:, [columns.EXPOSURE, columns.HALF_EXPOSURE]] //= 2


def a_quarter_of_the_variance(sums, images):
    from dials_postrefine.diffuse.map import columns

    sums[:, columns.VARIANCE] //= 4


def a_tenth_of_the_pixels_lost(sums, images):
    for image in images:
        image.n_inside -= image.n_inside // 10


FAULTS = [photons_of_a_wrong_gain, times_of_half, a_quarter_of_the_variance, a_tenth_of_the_pixels_lost]


@pytest.mark.parametrize("fault", [None, *FAULTS], ids=lambda fault: fault.__name__ if fault else "none")
def test_planted_faults_are_seen(data, tmp_path, monkeypatch, fault):
    """On a row that all of the tests look at."""
    from dials_postrefine.programs.diffuse_map import sums as program

    monkeypatch.chdir(tmp_path)
    right = program.map_and_scale

    def wrong(*args, **kwargs):
        mapped = right(*args, **kwargs)
        if fault is not None:
            fault(mapped.sums, mapped.images)
        return mapped

    monkeypatch.setattr(program, "map_and_scale", wrong)
    wanted = {"corrections.polarization": "True", "sampling.phi_steps": "1", "mask.ice_rings.filter": "False"}
    row = next(row for row in ROWS if "corrections.polarization=True" in row and "background.radial=offset" not in row)
    row = [f"{name}={wanted.get(name, value)}" for name, value in (item.split("=", 1) for item in row)]
    if fault is None:
        check_row(data, row, tmp_path)
    else:
        with pytest.raises(AssertionError):
            check_row(data, row, tmp_path)
