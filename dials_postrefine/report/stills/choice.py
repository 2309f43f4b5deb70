"""What was tried before the cycles, and what postrefinement is worth (stills/selection.py), for JSON, log and page."""

from __future__ import annotations

import numpy as np

from dials_postrefine.report.common.tables import number
from dials_postrefine.stills.partiality import Profile
from dials_postrefine.stills.refinement import Refinement
from dials_postrefine.stills.selection import Candidate

TRIED = (
    "Models that were tried, by what they predict of reflections that no fit has seen: difference, of the logarithms "
    "of the likelihoods of n observations, to the model that was best before; as good where it is not beyond its esd."
)
HEADERS = ("profile", "radius", "unit cell", "difference", "esd", "n", "accepted", "decision")


def describe_choice(refinement: Refinement) -> dict:
    """The model, the candidates and the gain, as plain numbers and text."""
    choice, result = refinement.choice, refinement.result
    profile, found = result.profile, choice.exponent
    exponent = None
    if profile.name == "pearson_vii":
        exponent = {"value": profile.exponent, "esd": None if found is None else found.esd}
    return {
        "model": result.model,
        "profile": profile.name,
        "exponent": exponent,
        "radius": result.radius,
        "unit_cell": result.unit_cell,
        "tried": [_describe_candidate(candidate) for candidate in choice.tried] if len(choice.tried) > 1 else [],
        "scaled_only": result.scaled_only,
        "gain": _describe_gain(refinement),
    }


def _describe_candidate(candidate: Candidate) -> dict:
    return {
        "profile": candidate.profile.name,
        "exponent": candidate.profile.exponent if candidate.profile.name == "pearson_vii" else None,
        "radius": candidate.radius,
        "unit_cell": candidate.unit_cell,
        "difference": candidate.difference,
        "difference_esd": candidate.difference_esd,
        "n_unseen": candidate.n,
        "n_accepted": candidate.n_accepted,
        "decision": candidate.decision.value,
    }


def _describe_gain(refinement: Refinement) -> dict | None:
    gain, (scaled, refined, n) = refinement.choice.gain, refinement.half_sets
    if gain is None:
        return None
    return {
        "difference": gain.difference,
        "difference_esd": gain.difference_esd,
        "n_unseen": gain.n,
        "cc_half_scaled": scaled,
        "cc_half_refined": refined,
        "n_common": n,
        "cc_reference_scaled": gain.cc_scaled,
        "cc_reference_refined": gain.cc_refined,
        "n_merged": gain.n_merged,
        "words": _gain_words(refinement),
    }


def _gain_words(refinement: Refinement) -> str:
    """Whether postrefinement beats scaling alone, and by what that is known."""
    gain, (scaled, refined, n) = refinement.choice.gain, refinement.half_sets
    if np.isfinite(gain.difference):
        said = (
            f"{gain.n} observations that no fit has seen are predicted "
            f"{'better' if gain.predicts_better else 'no better'} by postrefinement than by scaling alone: "
            f"ln likelihood {gain.difference:+.0f} with esd {number(gain.difference_esd, '{:.0f}')}"
        )
    else:
        said = "No fit leaves enough unseen observations to tell whether postrefinement is better than scaling alone"
    if np.isfinite(refined):
        said += f"; CC1/2 of independent half sets, {n} indices: {scaled:.3f} scaled, {refined:.3f} refined"
    if np.isfinite(gain.cc_refined):
        said += (
            f"; CC to the reference of {gain.n_merged} merged indices that no fit has seen: "
            f"{gain.cc_scaled:.3f} scaled, {gain.cc_refined:.3f} refined"
        )
    if refinement.untold:
        said += f", which is not enough of so few lattices, whose half sets have {n} indices in common, too few to tell"
    if refinement.result.scaled_only:
        said += ". So the lattices keep the geometry that they were indexed with, and the data are scaled alone"
    return said + "."


def model_words(summary: dict) -> str:
    """The model in words, with the exponent of its profile."""
    exponent, profile = summary["exponent"], summary["profile"]
    if exponent is not None:
        profile += f" with exponent {exponent['value']:.3g}"
        if exponent["esd"] is not None:
            # beyond, one is as good as the other, and as the Gaussian
            value, esd = exponent["value"], exponent["esd"]
            inverse = f" or any that is large, like a Gaussian (1/m {1.0 / value:.2f}, esd {esd / value**2:.2f})"
            profile += inverse if esd > value else f" (esd {esd:.2g})"
    return f"profile {profile}, radius {summary['radius']}, unit cell {summary['unit_cell']}"


def profile_of(summary: dict) -> Profile:
    """The profile of a summary, to be drawn."""
    exponent = summary["exponent"]
    return Profile(summary["profile"]) if exponent is None else Profile(summary["profile"], exponent["value"])


def candidate_rows(summary: dict, signed: str = "{:+.1f}", plain: str = "{:.1f}") -> list[list[str]]:
    """The rows of the table of what was tried, under HEADERS."""
    return [
        [
            one["profile"] + ("" if one["exponent"] is None else f"({one['exponent']:.3g})"),
            one["radius"],
            one["unit_cell"],
            number(one["difference"], signed),
            number(one["difference_esd"], plain),
            str(one["n_unseen"]),
            str(one["n_accepted"]),
            one["decision"],
        ]
        for one in summary["tried"]
    ]
