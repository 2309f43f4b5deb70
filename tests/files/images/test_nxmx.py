"""NXmx files with underload_value and saturation_value, read by the installed dxtbx: what it trusts is what is used."""

from __future__ import annotations

import json

import numpy as np
import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("cctbx", reason="dxtbx needs it")
pytest.importorskip("numba", reason="numba is not installed: dials.diffuse_map needs it")
h5py = pytest.importorskip("h5py", reason="NXmx files are HDF5")

pytestmark = [pytest.mark.cctbx, pytest.mark.dials]

SHAPE, N_IMAGES, LEVEL, TIME = (120, 100), 6, 20, 0.5
LIMITS = [(2, 100), (0, 100), (None, 100), (2, None)]  # underload_value, saturation_value


def write_nxmx(path, values, underload: int | None, saturation: int | None) -> None:
    """An NXmx file of images (n, slow, fast) about the x axis, 0.5 degrees each, 80 mm behind the crystal."""
    n, n_slow, n_fast = values.shape

    def group(parent, name, kind):
        found = parent.create_group(name)
        found.attrs["NX_class"] = kind
        return found

    def axis(parent, name, data, kind, vector, depends_on, units):
        found = parent.create_dataset(name, data=data)
        vector = np.array(vector, float)
        found.attrs.update(transformation_type=kind, vector=vector, depends_on=depends_on, units=units)

    with h5py.File(path, "w") as file:
        entry = group(file, "entry", "NXentry")
        entry["definition"] = "NXmx"
        data = group(entry, "data", "NXdata")
        data.attrs["signal"] = "data"
        data["data"] = values
        sample = group(entry, "sample", "NXsample")
        sample["depends_on"] = "/entry/sample/transformations/omega"
        axis(
            group(sample, "transformations", "NXtransformations"), "omega", 0.5 * np.arange(n), "rotation", (-1, 0, 0),
            ".", "deg",
        )  # fmt: skip
        instrument = group(entry, "instrument", "NXinstrument")
        beam = group(instrument, "beam", "NXbeam")
        beam.create_dataset("incident_wavelength", data=1.0).attrs["units"] = "angstrom"
        detector = group(instrument, "detector", "NXdetector")
        detector["sensor_material"] = "Si"
        detector.create_dataset("sensor_thickness", data=0.45).attrs["units"] = "mm"
        detector.create_dataset("frame_time", data=TIME).attrs["units"] = "s"
        for name, limit in (("underload_value", underload), ("saturation_value", saturation)):
            if limit is not None:
                detector[name] = limit
        where = "/entry/instrument/detector/transformations/distance"
        place = group(detector, "transformations", "NXtransformations")
        axis(place, "distance", [80.0], "translation", (0, 0, 1), ".", "mm")
        place["distance"].attrs.update(offset=np.array([0.4 * n_fast, 0.4 * n_slow, 0.0]), offset_units="mm")
        module = group(detector, "module", "NXdetector_module")
        module["data_origin"], module["data_size"] = np.array([0, 0]), np.array([n_slow, n_fast])
        for name, vector in (("fast_pixel_direction", (-1, 0, 0)), ("slow_pixel_direction", (0, -1, 0))):
            axis(module, name, [0.8], "translation", vector, where, "mm")


@pytest.fixture(params=LIMITS, ids=lambda limits: f"{limits[0]}-{limits[1]}")
def images(request, tmp_path):
    """Experiments of an NXmx file with pixels at and beyond both limits, the values, and what dxtbx trusts of them."""
    from dxtbx import flumpy
    from dxtbx.model.experiment_list import ExperimentListFactory

    from dials_postrefine.simulate.image_models import SeriesOptions, make_experiments

    underload, saturation = request.param
    rng = np.random.default_rng(1)
    values = np.full((N_IMAGES, *SHAPE), LEVEL, np.int32)
    chosen = rng.random(values.shape) < 0.06
    special = [-1, 0, 1, 2, 3, 98, 99, 100, 101, 5000]
    values[chosen] = rng.choice(special, np.count_nonzero(chosen))
    write_nxmx(tmp_path / "images.h5", values, underload, saturation)
    experiments = ExperimentListFactory.from_filenames([str(tmp_path / "images.h5")])
    experiments[0].crystal = make_experiments(SeriesOptions())[0].crystal
    experiments[0].identifier = "nxmx"
    experiments.as_file(str(tmp_path / "images.expt"))
    imageset = experiments[0].imageset
    trusted = np.array([flumpy.to_numpy(imageset.get_mask(i)[0]) for i in range(N_IMAGES)])
    # the file says it; dxtbx of 3.12 excludes the upper limit, which the standard includes
    low, high = -1 if underload is None else underload, np.inf if saturation is None else saturation
    sure = (values > low) & (values < high)
    assert trusted[sure].all() and not trusted[(values < low) | (values > high)].any()
    return experiments, values, trusted


def test_the_map_has_the_pixels_that_dxtbx_trusts_and_no_others(images, tmp_path, monkeypatch):
    from dials_postrefine.command_line.diffuse_map import run
    from dials_postrefine.files.maps.sums import add_sums

    experiments, values, trusted = images
    monkeypatch.chdir(tmp_path)
    run(["images.expt", "d_min=1.2", "mask.bragg=none", "mask.bad_pixels=False", "output.html=None"])
    pixels = json.loads((tmp_path / "dials.diffuse_map.json").read_text())["pixels"]
    assert pixels["n_input"] == values.size
    not_used = pixels["not_used"]
    assert not_used["outside of the trusted range, or in a shadow"] == np.count_nonzero(~trusted)
    assert pixels["n_averaged"] == np.count_nonzero(trusted)
    assert sum(not_used.values()) == np.count_nonzero(~trusted)
    from dials_postrefine.diffuse.map import columns

    counts = add_sums([str(tmp_path / "diffuse.nxs")]).sums[:, columns.COUNTS].sum() / columns.COUNT_SCALE
    assert counts == pytest.approx(values[trusted].sum(), rel=1e-9)


def test_the_beam_level_and_the_background_are_of_the_same_pixels(images):
    from dials_postrefine.files.images.beam_intensity import annulus_means
    from dials_postrefine.files.images.experiments import ImageSettings
    from dials_postrefine.programs.diffuse_map.series import make_series

    experiments, values, trusted = images
    detector, s0 = experiments[0].detector, experiments[0].beam.get_s0()
    n_slow, n_fast = SHAPE
    d = np.array(
        [[detector[0].get_resolution_at_pixel(s0, (j + 0.5, i + 0.5)) for j in range(n_fast)] for i in range(n_slow)]
    )
    inside = (d > 1.5) & (d < 6.0)
    expected = [values[i][trusted[i] & inside].mean() for i in range(N_IMAGES)]
    assert annulus_means(experiments[0], 1.5, 6.0) == pytest.approx(expected, rel=2e-3)  # a pixel at the limits
    settings = ImageSettings(bragg="none", bad_pixels=False)
    series = make_series(experiments, settings, 1.2, background=("empty.expt", experiments)).series[0]
    seen = trusted.sum(axis=0)
    assert np.array_equal(series.usable.reshape(SHAPE) != 0, seen > 0)
    rate = np.divide(np.where(trusted, values, 0).sum(axis=0), seen * TIME, out=np.zeros(SHAPE), where=seen > 0)
    assert series.background.reshape(SHAPE) == pytest.approx(rate, rel=1e-6)
