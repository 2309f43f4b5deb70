"""
What a beam is of, X-rays, electrons or neutrons: the one place that answers.

A parameter radiation= decides where the program has one and it is set; else the probe of the beam model where that is
electron or neutron; else the wavelength: below 0.05 Angstrom (electrons above 60 keV, X-rays of 250 keV) electrons,
above X-rays.

A probe of X-rays does not count against the wavelength: dxtbx before 3.17 has no probe at all, and later ones read
every file without one, and every format that says nothing, as X-rays.  Electrons of less than 60 keV whose model says
nothing need radiation=electron.

What depends on it: X-rays alone have a polarisation factor (and `lp` = 1/P), anomalous scattering factors, and the
absorption by air and sensor that cctbx' and dxtbx' tables of photons give; form factors differ for all three.
"""

from __future__ import annotations

ELECTRON_WAVELENGTH = 0.05  # Angstrom
RADIATIONS = ("xray", "electron", "neutron")


def probe_of(beam) -> str | None:
    """electron or neutron where the beam model says so, else None (module docstring)."""
    if hasattr(beam, "get_probe_name"):
        name = beam.get_probe_name()
    else:
        name = str(getattr(beam, "get_probe", lambda: "")()).lower().rsplit(".", 1)[-1]
    return name if name in ("electron", "neutron") else None


def common_probe(beams, wanted: str | None = None) -> str | None:
    """
    The probe (probe_of) that beam models have in common; wanted: what radiation= says.

    Raises Sorry where some are of another radiation than others and nothing says which is meant.
    """
    from dials.util import Sorry

    found = {radiation_of(beam, wanted): probe_of(beam) for beam in beams}
    if len(found) > 1:
        raise Sorry(
            f"The beams of the experiments are of {' and of '.join(sorted(found))}: give data of one radiation, or say "
            "radiation=."
        )
    return next(iter(found.values()), None)


def choose_radiation(wavelength: float | None, probe: str | None = None) -> str:
    """One of RADIATIONS: the probe where there is one, else electrons below 0.05 Angstrom."""
    if probe:
        return probe
    return "electron" if wavelength is not None and wavelength < ELECTRON_WAVELENGTH else "xray"


def radiation_of(beam, wanted: str | None = None) -> str:
    """One of RADIATIONS, of a beam model; wanted: what the parameter radiation= says, None where it is auto."""
    return wanted or choose_radiation(beam.get_wavelength(), probe_of(beam))


def is_xray(beam, wanted: str | None = None) -> bool:
    """Whether a beam is of X-rays."""
    return radiation_of(beam, wanted) == "xray"
