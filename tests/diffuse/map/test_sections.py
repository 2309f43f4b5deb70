"""Planes of a map: their names, where they lie, and their values against those of Map.plane."""

from __future__ import annotations

import numpy as np
import pytest
from map_sections import collect_sections

pytest.importorskip("numba", reason="the loops over voxels are compiled by numba")

from dials_postrefine.diffuse.map import columns
from dials_postrefine.diffuse.map.columns import make_sums
from dials_postrefine.diffuse.map.grid import make_grid
from dials_postrefine.diffuse.map.merging import merge
from dials_postrefine.diffuse.map.records import ImageResult, MappingSettings
from dials_postrefine.diffuse.map.sections import DEFAULT_PLANES, KINDS, Collector, parse_plane

TRICLINIC = np.array([[0.041, 0.007, -0.004], [0.0, 0.035, 0.009], [0.0, 0.0, 0.029]])
HEXAGONAL = np.array([[0.04, 0.02, 0.0], [0.0, 0.02 * 3.0**0.5, 0.0], [0.0, 0.0, 0.025]])


def a_map(reciprocal=TRICLINIC, d_min=4.0, d_max=np.inf, **grid):
    """A map of random counts, with Friedel's law, a third of whose voxels are not observed."""
    grid = make_grid(reciprocal, d_min, d_max, **grid)
    settings = MappingSettings(scale="none")
    rng = np.random.default_rng(3)
    sums = make_sums(grid)
    n = rng.poisson(20.0, grid.n_voxels) * (rng.random(grid.n_voxels) > 0.6)
    sums[:, columns.COUNTS] = sums[:, columns.VARIANCE] = n * int(columns.COUNT_SCALE)
    sums[:, columns.PIXELS] = np.where(n > 0, int(columns.COUNT_SCALE), 0)
    sums[:, columns.EXPOSURE] = np.where(n > 0, int(settings.quanta[0]) >> 10, 0)
    image = ImageResult(0, 1, scale=1.0, level=1.0, time=1.0)
    operations = np.array([np.eye(3, dtype=np.int64), -np.eye(3, dtype=np.int64)])
    return merge(sums, [image], grid, settings, operations, operations, n_shells=3)


@pytest.mark.parametrize(
    ("text", "frame", "running", "fixed", "value"),
    [
        ("hk0", "hkl", (0, 1), 2, 0.0),
        ("h0l", "hkl", (0, 2), 1, 0.0),
        ("0kl", "hkl", (1, 2), 0, 0.0),
        ("hk1", "hkl", (0, 1), 2, 1.0),
        ("hk0.33", "hkl", (0, 1), 2, 0.33),
        ("h,k,0.333", "hkl", (0, 1), 2, 0.333),
        ("hk-2", "hkl", (0, 1), 2, -2.0),
        ("-12kl", "hkl", (1, 2), 0, -12.0),
        ("h+1/3l", "hkl", (0, 2), 1, 1.0 / 3.0),
        (" (H K .5) ", "hkl", (0, 1), 2, 0.5),
        ("h2.l", "hkl", (0, 2), 1, 2.0),
        ("xy0", "cartesian", (0, 1), 2, 0.0),
        ("x0z", "cartesian", (0, 2), 1, 0.0),
        ("-.05yz", "cartesian", (1, 2), 0, -0.05),
    ],
)
def test_a_name_says_which_plane_it_is(text, frame, running, fixed, value):
    plane = parse_plane(text)
    assert (plane.frame, plane.running, plane.fixed, plane.value) == (frame, running, fixed, pytest.approx(value))
    assert parse_plane(plane.name).value == pytest.approx(value, abs=5e-5)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hk",
        "hkl",
        "h00",
        "000",
        "kh0",
        "h0k",
        "xk0",
        "hy0",
        "hkx",
        "hk1/0",
        "hk--1",
        "hk0.3.4",
        "h0l0",
        "hk0\n0",
        "hke",
    ],
)
def test_nonsense_is_refused_with_a_sentence(text):
    with pytest.raises(ValueError, match="is not a plane: .* as in hk0"):
        parse_plane(text)


@pytest.mark.parametrize("frame", ["hkl", "cartesian"])
def test_default_planes_are_planes_of_their_frame(frame):
    assert [parse_plane(name).frame for name in DEFAULT_PLANES[frame]] == [frame] * 3
    assert [parse_plane(name).name for name in DEFAULT_PLANES[frame]] == list(DEFAULT_PLANES[frame])


@pytest.mark.parametrize("grid", [{"subdivide": (2, 1, 3)}, {"spacing": 0.013}], ids=["hkl", "cartesian"])
def test_values_are_those_of_the_planes_of_the_map(grid):
    found = a_map(**grid)
    names = ["hk1/3", "h1l", "-1.5kl"] if "subdivide" in grid else ["xy-0.026", "x0.039z", "0.013yz"]
    sections = collect_sections(found, [parse_plane(name) for name in names])
    fixed = (2, 1, 0)
    planes = [found.plane(i) for i in range(found.grid.shape[0])]
    n_observed = 0
    for section, axis, name in zip(sections, fixed, names):
        value = parse_plane(name).value
        number = int(np.argmin(np.abs(found.grid.axes[axis] - value)))
        assert found.grid.axes[axis][number] == pytest.approx(value)
        for kind in KINDS:
            cube = np.array([plane[kind] for plane in planes])
            np.testing.assert_array_equal(section.values[kind], np.take(cube, number, axis).astype(np.float32))
        n_observed += np.isfinite(section.values["intensity"]).sum()
        x = np.stack(
            np.meshgrid(*(low + np.arange(n) for low, n in zip(found.grid.low, found.grid.shape)), indexing="ij")
        )
        s = np.take(np.linalg.norm(np.einsum("ij,jabc->iabc", found.grid.to_s, x), axis=0), number, axis)
        np.testing.assert_allclose(section.s(), s, atol=1e-12)
        assert not np.isfinite(section.values["intensity"][~section.inside()]).any()
        u, v = (found.grid.axes[a] for a in range(3) if a != axis)
        np.testing.assert_array_equal(section.u, u)
        np.testing.assert_array_equal(section.v, v)
    assert n_observed > 200


def test_only_planes_that_are_needed_are_computed():
    found = a_map()
    collector = Collector(found.grid, [parse_plane("0kl"), parse_plane("1/3kl")])
    needed = [i for i in range(found.grid.shape[0]) if collector.needs(i)]
    middle = -found.grid.low[0]
    assert needed == [middle, middle + 1]
    collector = Collector(found.grid, [parse_plane("hk0")])
    assert all(collector.needs(i) for i in range(found.grid.shape[0]))


def test_a_plane_between_voxels_gives_the_nearest_one_and_says_so():
    grid = make_grid(TRICLINIC, 4.0)
    exact, third, between, again = (
        Collector(grid, [parse_plane(name)]).sections[0] for name in ("hk1", "hk0.333", "hk0.33", "hk0.4")
    )
    assert (exact.name, exact.position, exact.note) == ("hk1", "l = 1", "")
    assert (third.name, third.note) == ("hk0.3333", "")
    assert between.position == again.position == "l = 0.3333"
    assert between.note == "There are no voxels at l = 0.33: this is the nearest plane, l = 0.3333."
    both = Collector(grid, [parse_plane("hk0.33"), parse_plane("h0l"), parse_plane("hk0.4")])
    assert [section.name for section in both.sections] == ["hk0.3333", "h0l"]


@pytest.mark.parametrize(
    ("grid", "name", "words"),
    [
        ({}, "xy0", "frame=hkl are called as in hk0, h0l, 0kl"),
        ({"spacing": 0.01}, "hk0", "frame=cartesian are called as in xy0, x0z, 0yz"),
        ({}, "hk40", "hk40 is beyond d_min=4.00: l goes from -8.333 to 8.333"),
        ({"spacing": 0.01}, "0.3yz", "x goes from -0.24 to 0.24"),
        ({}, "h1e9l".replace("e9", "0" * 60), "is beyond d_min=4.00"),
    ],
)
def test_a_plane_that_the_grid_does_not_have_is_refused(grid, name, words):
    with pytest.raises(ValueError, match="^Plane .*" + words):
        Collector(make_grid(TRICLINIC, 4.0, **grid), [parse_plane(name)])


def test_the_largest_plane_that_is_named_can_be_had():
    (section,) = Collector(make_grid(TRICLINIC, 4.0), [parse_plane("hk8.333")]).sections
    assert section.inside().any()


def test_geometry_is_that_of_the_reciprocal_lattice():
    (hk0, h1l) = Collector(make_grid(HEXAGONAL, 3.0), [parse_plane("hk0"), parse_plane("h1l")]).sections
    assert np.degrees(hk0.angle) == pytest.approx(60.0)
    assert hk0.lengths == pytest.approx((0.04, 0.04)) and hk0.height == 0.0
    assert np.degrees(h1l.angle) == pytest.approx(90.0)
    assert h1l.lengths == pytest.approx((0.04, 0.025))
    # b* is half along a*, and the rest of it is height
    assert h1l.origin == pytest.approx((0.02, 0.0)) and abs(h1l.height) == pytest.approx(0.02 * 3.0**0.5)
    for name in ("hk2", "h2l", "2kl"):
        (section,) = Collector(make_grid(TRICLINIC, 4.0), [parse_plane(name)]).sections
        a, b = (TRICLINIC[:, "hkl".index(letter)] for letter in section.letters)
        assert section.lengths == pytest.approx((np.linalg.norm(a), np.linalg.norm(b)))
        assert np.cos(section.angle) == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_limits_of_resolution_are_those_of_the_map():
    found = a_map(d_max=12.0)
    (section,) = collect_sections(found, [parse_plane("hk0")])
    assert section.limits == pytest.approx((1.0 / 12.0, 0.25))
    inside, s = section.inside(), section.s()
    np.testing.assert_array_equal(inside, (s >= 1.0 / 12.0) & (s <= 0.25))
    assert np.isnan(section.values["intensity"][~inside]).all()
