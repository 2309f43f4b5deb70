"""
Parameters that have no effect beside the others: whoever sets one should be told.

A rule says that a parameter is used only where another one has one of some values:

    mask.box  is used with  mask.bragg = auto or box

A parameter that was changed against its rule is named.  Where `auto` has chosen, what it chose counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from dials_postrefine.settings.binding import changed_paths, values_by_path

GIVEN = "given"  # any value but none
NOT_GIVEN = "not given"

# By program: the parameter, or a pattern; the other one; its values.
RULES: dict[str, tuple[tuple[str, str, tuple[str, ...]], ...]] = {
    "dials.postrefine": (
        ("mp.nproc", "mp.method", ("auto", "processes", "mpi")),
        ("radius", "algorithm", ("rs_hybrid",)),
        ("exponent", "profile", ("auto", "pearson_vii")),
        ("free_fraction", "cross_validation", ("free_reflections",)),
        ("reference_model.*", "reference", (GIVEN,)),
        ("filtering.significance_filter.*", "filtering.significance_filter.enable", ("True",)),
        ("filtering.deltacchalf.*", "filtering.method", ("deltacchalf",)),
    ),
    "dials.diffuse_map": (
        ("mp.nproc", "mp.method", ("auto", "processes", "mpi")),
        ("mask.n_sigma", "mask.bragg", ("auto", "profile")),
        ("mask.box", "mask.bragg", ("auto", "box")),
        ("mask.ice_rings.*", "mask.ice_rings.filter", ("True",)),
        ("grid.spacing", "grid.frame", ("cartesian",)),
        ("grid.subdivide", "grid.frame", ("hkl",)),
        ("background.scale", "background.experiments", (GIVEN,)),
        ("background.exposure_time", "background.experiments", (GIVEN,)),
        ("polarization_fraction", "corrections.polarization", ("True",)),
        *(
            (name, "add", (NOT_GIVEN,))
            for name in (
                "d_min d_max image_range grid.* mask.* corrections.* exposure_time gain pedestal read_noise "
                "polarization_fraction background.* scale.* reject.* half_sets sampling.* allow_bad_images"
            ).split()
        ),
    ),
    "dials.diffuse_model": (
        ("rigid_body.*", "model", ("rigid_body",)),
        ("liquid_like.*", "model", ("liquid_like", "mixture")),
        ("elastic.*", "model", ("elastic",)),
        ("covariance.*", "model", ("covariance",)),
        ("k_sol", "bulk_solvent", ("True",)),
        ("b_sol", "bulk_solvent", ("True",)),
        *(
            (f"covariance.{name}", "input.covariance", (NOT_GIVEN,))
            for name in "groups residues n_domains selection rank strength length".split()
        ),
        ("covariance.superpose", "input.covariance", (GIVEN,)),
        ("covariance.tensor", "input.covariance", (GIVEN,)),
        ("covariance.residues", "covariance.groups", ("auto", "residues")),
        ("covariance.n_domains", "covariance.groups", ("domains",)),
        ("covariance.selection", "covariance.groups", ("auto", "selection")),
        ("rigid_body.selection", "rigid_body.unit", ("auto", "selection")),
        ("displacements", "model", ("rigid_body", "liquid_like", "mixture")),
        ("background.n", "background.functions", ("smooth", "radial")),
    ),
    "dials.fine_refine": (
        *((f"detector.{name}", "detector.gain", (GIVEN,)) for name in "var_b delta a m".split()),
        ("detector.mtf_iterations", "detector.mtf", (GIVEN,)),
    ),
    "dials.image_spread": (("beam.annulus", "beam.intensity", ("auto", "images")),),
    "dials.intensity_model": (
        ("split", "train", (NOT_GIVEN,)),
        ("n_folds", "train", (NOT_GIVEN,)),
        ("reference_model.*", "reference", (GIVEN,)),
        ("output.experiments", "output.reflections", (GIVEN,)),
    ),
    "dials.reference_intensities": (
        ("reference_model.k_sol", "reference_model.bulk_solvent", ("auto", "on")),
        ("reference_model.b_sol", "reference_model.bulk_solvent", ("auto", "on")),
        ("input.data_labels", "input.data", (GIVEN,)),
        ("output.experiments", "output.reflections", (GIVEN,)),
    ),
}


def without_effect(
    program: str,
    request,
    chosen: Mapping[str, Sequence[str]] | None = None,
    changed: Sequence[str] | None = None,
) -> list[str]:
    """
    A sentence for each changed parameter of a program's request that has no effect.

    chosen: what was chosen where the request has `auto`, by the name of the parameter.  changed: the names of the
    parameters that were changed, None for those that have not their default.
    """
    found, values = [], values_by_path(request)
    for name in changed_paths(request) if changed is None else changed:
        for pattern, other, wanted in RULES.get(program, ()):
            if not fnmatchcase(name, pattern) or name == other:
                continue
            set_to = (chosen or {}).get(other) or [_as_written(values[other])]
            if not any(_is_one(value, wanted) for value in set_to):
                why = f"there is no {other}=" if wanted == (GIVEN,) else f"{other} is {' and '.join(map(str, set_to))}"
                found.append(f"{name}= has no effect, as {why}.")
                break
    return found


def _as_written(value):
    return "none" if value is None else list(value) if isinstance(value, tuple) else value


def _is_one(value, values: Sequence[str]) -> bool:
    given = value not in ("none", None, "", []) and value != ["none"]
    return str(value) in values or (GIVEN in values and given) or (NOT_GIVEN in values and not given)
