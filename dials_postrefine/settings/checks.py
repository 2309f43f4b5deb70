"""Values that do not go together, whatever the data are."""

from __future__ import annotations

SMALLEST_D = 0.01  # Angstrom: no diffraction of crystals reaches there


def check_limits(request) -> None:
    """Raises Sorry for resolution limits d_min and d_max that cross or are no numbers; 0 is no limit."""
    from dials.util import Sorry

    for name in ("d_min", "d_max"):
        value = getattr(request, name)
        if value is not None and value != 0.0 and not SMALLEST_D <= value < float("inf"):
            raise Sorry(f"{name}={value:g} is no resolution: give Angstrom, or leave it out.")
    if request.d_min and request.d_max and request.d_min >= request.d_max:
        raise Sorry(
            f"d_min={request.d_min:g} is not below d_max={request.d_max:g}: d_min is the high resolution limit."
        )
