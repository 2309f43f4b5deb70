"""
Seeded synthetic stills with known truth, for the demo, the tests and the accuracy benchmark.

Geometry.  A lattice is indexed with the reciprocal matrix A_ref = U B (columns a*, b*, c*; A^-1; laboratory frame) and
its true matrix is A = k R_y(theta_y) R_x(theta_x) A_ref, where k is an isotropic scale of the reciprocal cell and the
rotations are right-handed about the laboratory x and y.  q = A h, S = q + s0 and r_h = |S| - |s0| (A^-1, > 0 outside
the Ewald sphere), with |s0| = 1/wavelength; the source is on the +z side, so s0 is close to (0, 0, -1/wavelength).

Intensity.  I = G exp(-2 B d*^2) p P I_full with d* = |q|.  This B is a quarter of the conventional one,
exp(-B_conventional d*^2 / 2).  P is the polarisation factor of DIALS (Kabsch, J. Appl. Cryst. 21 (1988) 916), with s1
the direction of the predicted spot, n the polarisation normal and f the polarisation fraction,

    P = (1 - 2 f) (1 - (n.s1)^2 / |s1|^2) + f (1 + (s1.s0)^2 / (|s1| |s0|)^2).

Partiality p, `physics="model"`: one of the profiles of `model_partiality`, written out here and not imported, so
that the truth does not depend on the code it is to test.  `physics="mosaic"`: no analytic profile but an average over a
quasi-random sample of mosaic blocks and wavelengths, see `mosaic_partiality`; the width of the reflections then grows
with resolution at constant volume, and none of the model profiles is right.

Random numbers.  Lattice i draws from streams of its own, keyed by (seed, i), so it does not depend on how many lattices
there are, and its geometry does not depend on the options for intensities and noise.  Lengths are in Angstrom, angles
in degrees in `StillsOptions` and in radians in `SimulatedStills`.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Any

import numpy as np

# The structure behind the reference intensities is the same for every seed: data sets of different seeds can be merged.
STRUCTURE_SEED = 20240229
MEAN_INTENSITY = 1000.0
HIGHEST_ANGLE = math.radians(75.0)  # between a diffracted beam and the normal of the one flat panel

PROFILES = ("hard_sphere", "lorentzian", "gaussian", "pearson_vii")


@dataclass(frozen=True)
class StillsOptions:
    """What to simulate.  A `spread` is a standard deviation between lattices; "log-normal" is that of the logarithm."""

    n_lattices: int = 60
    seed: int = 0
    d_min: float = 2.0
    d_max: float = 20.0
    unit_cell: tuple[float, ...] = (79.0, 79.0, 38.0, 90.0, 90.0, 90.0)
    space_group: str = "P43212"
    wavelength: float = 1.3
    wavelength_jitter: float = 0.0  # relative
    beam_tilt: float = 0.0  # degrees, of the incident beam off z, about (1, 1, 0)
    polarization_fraction: float = 0.5
    apply_polarisation: bool = True

    physics: str = "model"  # or "mosaic"
    profile: str = "lorentzian"  # of physics="model"
    exponent: float = 2.0  # m of profile="pearson_vii"
    radius: float = 0.0004  # A^-1, r_s of physics="model"
    radius_spread: float = 0.0  # log-normal
    mosaic_spread: float = 0.04  # degrees, sigma about each axis, physics="mosaic" from here
    mosaic_log_spread: float = 0.3  # log-normal
    domain_size: float = 2500.0
    bandwidth: float = 0.0008  # relative sigma of the wavelengths within one pulse
    n_samples: int = 400  # of (block, wavelength) in a lattice

    misorientation: float = 0.05  # degrees
    misorientation_kind: str = "normal"  # sigma of theta_x and of theta_y, or "fixed": |(theta_x, theta_y)| itself
    cell_spread: float = 0.0  # relative, isotropic
    scale_spread: float = 0.5  # log-normal
    b_spread: float = 1.0  # A^2, B = |N(0, b_spread)| in exp(-2 B d*^2)
    window: float = 0.0008  # A^-1, predicted where |r_h| of the indexed orientation is smaller

    noise: bool = True
    gain: float = 1.0
    background: float = 100.0  # variance of the background under a spot at its ring, see `background_variance`
    observed_variance: bool = False  # report the variance of the noisy counts, as an integrator has to
    wild_fraction: float = 0.0  # of the intensities
    useless_fraction: float = 0.0  # of the lattices
    bijvoet_ratio: float = 0.0  # mean |I+ - I-| over mean I of acentric reflections, by f'' of a few atoms

    def __post_init__(self):
        object.__setattr__(self, "unit_cell", tuple(float(x) for x in self.unit_cell))
        for name, allowed in (
            ("physics", ("model", "mosaic")),
            ("profile", PROFILES),
            ("misorientation_kind", ("normal", "fixed")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r} is not one of {', '.join(allowed)}")
        if self.n_lattices < 1:
            raise ValueError(f"n_lattices={self.n_lattices} is not a number of stills")
        if not 0.0 < self.d_min < self.d_max:
            raise ValueError(f"0 < d_min < d_max is needed, not d_min={self.d_min}, d_max={self.d_max}")
        if self.highest_angle > HIGHEST_ANGLE:
            raise ValueError(f"d_min={self.d_min} A at {self.wavelength} A does not reach one flat detector")

    @property
    def highest_angle(self) -> float:
        """The largest angle (radians) of a diffracted beam with z: 2 theta at d_min, the tilt and some room."""
        sin_theta = self.wavelength * (1 + 6 * self.wavelength_jitter) / (2 * self.d_min)
        return 2 * math.asin(min(1.0, sin_theta)) + math.radians(abs(self.beam_tilt)) + 0.01

    @classmethod
    def unlike_model(cls, n_lattices: int = 400, seed: int = 0) -> StillsOptions:
        """
        The benchmark: stills that no partiality model of the program describes, some 280 reflections a lattice.

        B is |N(0, 6)| in the conventional exp(-B d*^2 / 2), hence 6/4 here.
        """
        return cls(
            n_lattices=n_lattices,
            seed=seed,
            physics="mosaic",
            mosaic_spread=0.04,
            domain_size=2500.0,
            bandwidth=0.0008,
            misorientation=0.03,
            cell_spread=0.0008,
            scale_spread=0.8,
            b_spread=6.0 / 4.0,
            window=0.00075,
            background=200.0,
            observed_variance=True,
            wild_fraction=0.004,
            useless_fraction=0.03,
        )


@dataclass
class SimulatedStills:
    """Observations and the truth behind them: n lattices, m reflections sorted by lattice, k reference intensities."""

    options: StillsOptions
    # per lattice
    identifiers: list[str]
    a_true: np.ndarray  # (n, 3, 3) A^-1
    a_indexed: np.ndarray  # (n, 3, 3) A^-1
    s0: np.ndarray  # (n, 3) A^-1
    wavelength: np.ndarray  # (n,) A
    scale: np.ndarray  # (n,) G
    b_factor: np.ndarray  # (n,) A^2, in exp(-2 B d*^2)
    theta_x: np.ndarray  # (n,) radians
    theta_y: np.ndarray  # (n,) radians
    cell_scale: np.ndarray  # (n,) true over indexed reciprocal cell
    radius: np.ndarray  # (n,) A^-1, r_s; NaN where physics="mosaic"
    mosaic_spread: np.ndarray  # (n,) radians; NaN where physics="model"
    useless: np.ndarray  # (n,) bool, the intensities are those of other reflections
    # per reflection
    lattice: np.ndarray  # (m,) int32
    h: np.ndarray  # (m, 3) int32, as indexed, not reduced to the asymmetric unit
    asu: np.ndarray  # (m,) int32, row of reference_h
    s1: np.ndarray  # (m, 3) A^-1, predicted spot: q + s0 of the indexed orientation, rescaled to |s0|
    d: np.ndarray  # (m,) A, of the indexed cell
    i_full: np.ndarray  # (m,) I_full of h, of every lattice, useless or not
    partiality: np.ndarray  # (m,) p
    polarisation: np.ndarray  # (m,) P, 1 if it is not applied
    expected: np.ndarray  # (m,) intensity before noise and wild values
    intensity: np.ndarray  # (m,) observed
    variance: np.ndarray  # (m,) reported for it
    wild: np.ndarray  # (m,) bool
    # the structure
    reference_h: np.ndarray  # (k, 3) int32, asymmetric unit; Friedel pairs apart where bijvoet_ratio > 0
    reference_intensity: np.ndarray  # (k,)


@dataclass
class _Lattice:
    """The per-lattice truth that is drawn before any reflection is predicted; symbols as in `SimulatedStills`."""

    a_true: np.ndarray
    a_indexed: np.ndarray
    s0: np.ndarray
    wavelength: float
    scale: float
    b_factor: float
    theta_x: float
    theta_y: float
    cell_scale: float
    radius: float
    mosaic_spread: float
    useless: bool


@dataclass
class _Sphere:
    """Every reflection to d_min, both of Friedel pairs, no absences: h (l, 3), asu (l,), and h as float (l, 3)."""

    h: np.ndarray
    asu: np.ndarray
    h_float: np.ndarray
    d_star_sq: np.ndarray


def model_partiality(profile: str, r_h: np.ndarray, r_s: float, exponent: float = 2.0) -> np.ndarray:
    """
    Partiality p of points at the distance r_h (A^-1) from the Ewald sphere for a lattice point of radius r_s.

    hard_sphere: 1 - r_h^2/r_s^2 inside, 0 outside; lorentzian: r_s^2/(2 r_h^2 + r_s^2); gaussian:
    exp(-2 ln2 r_h^2/r_s^2); pearson_vii with the exponent m: [1 + 2 (2^(1/m) - 1) r_h^2/r_s^2]^-m.
    """
    x = (np.asarray(r_h) / r_s) ** 2
    if profile == "hard_sphere":
        return np.maximum(0.0, 1.0 - x)
    if profile == "lorentzian":
        return 1.0 / (2.0 * x + 1.0)
    if profile == "gaussian":
        return np.exp(-2.0 * math.log(2.0) * x)
    if profile == "pearson_vii":
        return (1.0 + 2.0 * (2.0 ** (1.0 / exponent) - 1.0) * x) ** -exponent
    raise ValueError(f"profile={profile!r} is not one of {', '.join(PROFILES)}")


def mosaic_samples(rng: np.random.Generator, n: int, mosaic_spread: float, bandwidth: float):
    """
    A quasi-random sample of n mosaic blocks and wavelengths: rotations (n, 3, 3) and wavelength ratios (n,).

    The rotation vector is Gaussian with sigma `mosaic_spread` (radians) on each axis, the ratio 1 + bandwidth N(0, 1).
    The points are a Halton sequence in the bases 2, 3, 5, 7 (Numer. Math. 2 (1960) 84), shifted at random modulo 1,
    through the inverse of the normal distribution.
    """
    from scipy.special import ndtri

    u = np.empty((n, 4))
    for j, base in enumerate((2, 3, 5, 7)):
        digits, weight = np.arange(1, n + 1), 1.0 / base
        u[:, j] = rng.random()
        while digits.any():  # the digits of the index, mirrored at the point
            u[:, j] += weight * (digits % base)
            digits, weight = digits // base, weight / base
    z = ndtri(np.clip(u % 1.0, 1e-12, 1 - 1e-12))
    return rotation_matrices(mosaic_spread * z[:, :3]), 1.0 + bandwidth * z[:, 3]


def mosaic_partiality(
    q: np.ndarray, s0: np.ndarray, rotations: np.ndarray, wavelength_ratios: np.ndarray, domain_size: float
) -> np.ndarray:
    """
    Partiality of a mosaic crystal in a beam of finite bandwidth: p(q) = mean_k exp(-pi D^2 e_k^2).

    e_k = |R_k q + s0_k| - |s0_k| (exact, A^-1) with R_k the rotation of block k and s0_k along s0 with the sample's
    wavelength; D (A) is the domain size.  The Gaussian has the height and the integral of (sin(pi D e) / (pi D e))^2,
    the transform of a block of thickness D: p = 1 on the sphere of a perfect crystal in a monochromatic beam.

    Shapes: q (m, 3), s0 (3,), rotations (k, 3, 3), wavelength_ratios (k,); returns (m,).
    """
    s0_k = s0 / wavelength_ratios[:, None]
    # |R q + s0|^2 = |q|^2 + 2 q.(R^T s0) + |s0|^2, so that only s0 has to be rotated
    s0_turned = np.einsum("kji,kj->ki", rotations, s0_k)
    k_sq = np.sum(s0_k**2, axis=1)
    e = np.sqrt(np.sum(q**2, axis=1)[:, None] + 2.0 * q @ s0_turned.T + k_sq) - np.sqrt(k_sq)
    return np.mean(np.exp(-math.pi * domain_size**2 * e**2), axis=1)


def rotation_matrices(vectors: np.ndarray) -> np.ndarray:
    """Right-handed rotations (n, 3, 3) for rotation vectors (n, 3): axis times angle in radians (Rodrigues)."""
    vectors = np.atleast_2d(np.asarray(vectors, dtype=float))
    angle = np.linalg.norm(vectors, axis=1)
    x, y, z = (vectors / np.where(angle > 0, angle, 1.0)[:, None]).T
    zero = np.zeros_like(x)
    cross = np.array([[zero, -z, y], [z, zero, -x], [-y, x, zero]]).transpose(2, 0, 1)
    sin, cos = np.sin(angle)[:, None, None], np.cos(angle)[:, None, None]
    return np.eye(3) + sin * cross + (1.0 - cos) * cross @ cross


def polarisation_factor(s1: np.ndarray, s0: np.ndarray, normal: np.ndarray, fraction: float) -> np.ndarray:
    """P of the module docstring for s1 (m, 3), s0 (3,) and a unit polarisation normal (3,)."""
    s1_hat = s1 / np.linalg.norm(s1, axis=1)[:, None]
    cos_2theta = s1_hat @ (s0 / np.linalg.norm(s0))
    return (1 - 2 * fraction) * (1 - (s1_hat @ normal) ** 2) + fraction * (1 + cos_2theta**2)


def background_variance(options: StillsOptions, d_star: np.ndarray) -> np.ndarray:
    """Variance of the background of a spot: a solvent ring at 3.3 A on a level of 0.3, times `options.background`."""
    return options.background * (0.3 + 0.7 * np.exp(-0.5 * ((d_star - 0.3) / 0.08) ** 2))


def beam_frame(options: StillsOptions) -> tuple[np.ndarray, np.ndarray]:
    """Unit incident beam (3,) and polarisation normal (3,): -z and y, both turned by the tilt about (1, 1, 0)."""
    tilt = math.radians(options.beam_tilt) / math.sqrt(2.0)
    r = rotation_matrices([tilt, tilt, 0.0])[0]
    return r @ (0.0, 0.0, -1.0), r @ (0.0, 1.0, 0.0)


def reference_intensities(options: StillsOptions) -> tuple[np.ndarray, np.ndarray, Any]:
    """
    Intensities of a random C, N, O structure (B about 20 A^2) between d_max and d_min, scaled to a mean of 1000.

    Returns h (k, 3) int32 in the asymmetric unit without absences, intensity (k,), and both as a cctbx miller array;
    Friedel pairs are apart where bijvoet_ratio > 0 (anomalous.py).
    The random states of Python and of flex are left as they were.
    """
    from cctbx import crystal, uctbx
    from cctbx.array_family import flex
    from cctbx.development import random_structure

    from dials_postrefine.simulate.anomalous import anomalous_structure_factors

    symmetry = crystal.symmetry(unit_cell=options.unit_cell, space_group_symbol=options.space_group)
    volume = uctbx.unit_cell(options.unit_cell).volume() / symmetry.space_group().order_z()
    n_atoms = max(4, min(300, int(volume / 40.0)))
    python_state, flex_state = random.getstate(), flex.random_generator.getstate()
    try:
        random.seed(STRUCTURE_SEED)
        flex.set_random_seed(STRUCTURE_SEED)
        structure = random_structure.xray_structure(
            space_group_info=symmetry.space_group_info(),
            unit_cell=options.unit_cell,
            elements=(["C", "C", "C", "N", "O"] * n_atoms)[:n_atoms],
            min_distance=1.2,
            general_positions_only=True,
            use_u_iso=True,
            random_u_iso=True,
            random_u_iso_min=0.15,
            random_u_iso_scale=0.2,
        )
        f_calc = structure.structure_factors(d_min=options.d_min, algorithm="fft").f_calc()
        if options.bijvoet_ratio > 0.0:
            f_calc = anomalous_structure_factors(structure, options.d_min, options.bijvoet_ratio)
    finally:
        random.setstate(python_state)
        flex.random_generator.setstate(flex_state)
    f_calc = f_calc.resolution_filter(d_max=options.d_max, d_min=options.d_min).map_to_asu().sort("packed_indices")
    f_calc = f_calc.select(~f_calc.sys_absent_flags().data())
    data = flex.norm(f_calc.data())
    data *= MEAN_INTENSITY / flex.mean(data)
    array = f_calc.customized_copy(data=data, sigmas=None).set_observation_type_xray_intensity()
    h = array.indices().as_vec3_double().as_double().as_numpy_array().reshape(-1, 3)
    return np.rint(h).astype(np.int32), data.as_numpy_array().copy(), array


def simulate_stills(options: StillsOptions) -> SimulatedStills:
    """Simulate `options.n_lattices` stills; the same options give the same arrays, bit by bit, on one machine."""
    reference_h, reference, array = reference_intensities(options)
    sphere = _whole_sphere(array)
    trend = _resolution_trend(array)
    lattices = [_draw_lattice(options, i) for i in range(options.n_lattices)]
    parts = [_observe(options, i, lattice, sphere, reference, trend) for i, lattice in enumerate(lattices)]
    per_lattice = {name: np.array([getattr(x, name) for x in lattices]) for name in _Lattice.__dataclass_fields__}
    per_reflection = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return SimulatedStills(
        options=options,
        identifiers=[f"still-{options.seed}-{i:05d}" for i in range(options.n_lattices)],
        reference_h=reference_h,
        reference_intensity=reference,
        **per_lattice,
        **per_reflection,
    )


def _rng(options: StillsOptions, lattice: int, stream: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(options.seed, spawn_key=(lattice, stream)))


def _whole_sphere(array) -> _Sphere:
    """Expand the reference array to all of reciprocal space."""
    from cctbx.array_family import flex

    rows = array.customized_copy(data=flex.int(range(array.size())), sigmas=None).set_observation_type(None)
    rows = rows.expand_to_p1()
    if not rows.anomalous_flag():
        rows = rows.generate_bijvoet_mates()
    h_float = rows.indices().as_vec3_double().as_double().as_numpy_array().reshape(-1, 3).copy()
    return _Sphere(
        h=np.rint(h_float).astype(np.int32),
        asu=rows.data().as_numpy_array().astype(np.int32),
        h_float=h_float,
        d_star_sq=rows.d_star_sq().data().as_numpy_array().copy(),
    )


def _resolution_trend(array) -> np.ndarray:
    """Mean reference intensity about the resolution of each reference reflection, (k,): running over 1/40 of them."""
    order = np.argsort(array.d_star_sq().data().as_numpy_array(), kind="stable")
    data = array.data().as_numpy_array()
    half = max(1, len(data) // 80)
    total = np.concatenate([[0.0], np.cumsum(data[order])])
    lower = np.maximum(np.arange(len(data)) - half, 0)
    upper = np.minimum(np.arange(len(data)) + half + 1, len(data))
    trend = np.empty(len(data))
    trend[order] = (total[upper] - total[lower]) / (upper - lower)
    return trend


def _draw_lattice(options: StillsOptions, index: int) -> _Lattice:
    """Draw lattice `index`; every number is drawn whether it is used or not, so that options act independently."""
    from cctbx import uctbx

    rng = _rng(options, index, 0)
    quaternion, tilt = rng.standard_normal(4), rng.standard_normal(2)
    z_wavelength, z_scale, z_b, z_cell, z_radius, z_mosaic = rng.standard_normal(6)
    useless = bool(rng.random() < options.useless_fraction)

    b = np.array(uctbx.unit_cell(options.unit_cell).fractionalization_matrix()).reshape(3, 3).T
    a_indexed = _quaternion_rotation(quaternion) @ b
    if options.misorientation_kind == "fixed":
        tilt = tilt / np.linalg.norm(tilt)
    theta_x, theta_y = math.radians(options.misorientation) * tilt
    r_x, r_y = rotation_matrices([[theta_x, 0.0, 0.0], [0.0, theta_y, 0.0]])
    cell_scale = 1.0 + options.cell_spread * z_cell
    wavelength = options.wavelength * (1.0 + options.wavelength_jitter * z_wavelength)
    mosaic = options.physics == "mosaic"
    return _Lattice(
        a_true=cell_scale * r_y @ r_x @ a_indexed,
        a_indexed=a_indexed,
        s0=beam_frame(options)[0] / wavelength,
        wavelength=wavelength,
        scale=math.exp(options.scale_spread * z_scale),
        b_factor=abs(options.b_spread * z_b),
        theta_x=theta_x,
        theta_y=theta_y,
        cell_scale=cell_scale,
        radius=math.nan if mosaic else options.radius * math.exp(options.radius_spread * z_radius),
        mosaic_spread=(
            math.radians(options.mosaic_spread) * math.exp(options.mosaic_log_spread * z_mosaic) if mosaic else math.nan
        ),
        useless=useless,
    )


def _quaternion_rotation(quaternion: np.ndarray) -> np.ndarray:
    """Rotation (3, 3) of a quaternion (w, x, y, z) of any length; four normal deviates give a uniform rotation."""
    w, x, y, z = quaternion / np.linalg.norm(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def _observe(
    options: StillsOptions, index: int, lattice: _Lattice, sphere: _Sphere, reference: np.ndarray, trend: np.ndarray
) -> dict[str, np.ndarray]:
    """Predict the reflections of one lattice and observe them: the per-reflection arrays of `SimulatedStills`."""
    k = 1.0 / lattice.wavelength
    # |S|^2 = |s0|^2 + d*^2 + 2 h.(A^T s0): one product for the whole sphere
    s_sq = k**2 + sphere.d_star_sq + 2.0 * (sphere.h_float @ (lattice.a_indexed.T @ lattice.s0))
    chosen = np.flatnonzero(np.abs(np.sqrt(s_sq) - k) < options.window)
    h, asu, d_star_sq = sphere.h_float[chosen], sphere.asu[chosen], sphere.d_star_sq[chosen]
    s1 = h @ lattice.a_indexed.T + lattice.s0
    s1 *= (k / np.linalg.norm(s1, axis=1))[:, None]

    q = h @ lattice.a_true.T
    if options.physics == "model":
        r_h = np.linalg.norm(q + lattice.s0, axis=1) - k
        p = model_partiality(options.profile, r_h, lattice.radius, options.exponent)
    else:
        samples = mosaic_samples(_rng(options, index, 1), options.n_samples, lattice.mosaic_spread, options.bandwidth)
        p = mosaic_partiality(q, lattice.s0, *samples, options.domain_size)
    polarisation = np.ones(len(h))
    if options.apply_polarisation:
        polarisation = polarisation_factor(s1, lattice.s0, beam_frame(options)[1], options.polarization_fraction)

    rng = _rng(options, index, 2)
    noise = rng.standard_normal(len(h))
    wild = rng.random(len(h)) < options.wild_fraction
    wildness = 10.0 ** rng.uniform(1.0, 2.0, len(h))
    shift = rng.uniform(0.1, 0.2)

    i_full = reference[asu]
    diffracted = i_full
    if lattice.useless:  # intensities of other reflections of about the same resolution
        order = np.argsort(d_star_sq, kind="stable")
        diffracted = np.empty_like(i_full)
        diffracted[order] = np.roll(i_full[order], max(1, int(shift * len(h))))
    factor = lattice.scale * np.exp(-2.0 * lattice.b_factor * np.sum(q**2, axis=1)) * polarisation
    expected = factor * p * diffracted
    background = background_variance(options, np.sqrt(d_star_sq))
    variance = options.gain * expected + background
    intensity = expected + noise * np.sqrt(variance) if options.noise else expected.copy()
    # ten to a hundred times what is usual at this resolution in this lattice, with the variance of so many counts
    mean_p = np.mean(p) if len(p) else 0.0
    intensity[wild] += (wildness * factor * mean_p * trend[asu])[wild]
    counted = wild | options.observed_variance
    variance = np.where(counted, options.gain * np.maximum(intensity, 0.0) + background, variance)
    return {
        "lattice": np.full(len(h), index, dtype=np.int32),
        "h": sphere.h[chosen],
        "asu": asu,
        "s1": s1,
        "d": 1.0 / np.sqrt(d_star_sq),
        "i_full": i_full,
        "partiality": p,
        "polarisation": polarisation,
        "expected": expected,
        "intensity": intensity,
        "variance": variance,
        "wild": wild,
    }
