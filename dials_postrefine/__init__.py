"""Postrefinement of stills, diffuse scattering and electron diffraction as DIALS programs.

Importing the package costs nothing but a look for DIALS: without it every room of the house would fail further in and
less clearly.  cctbx itself is imported where it is used.
"""

from __future__ import annotations

import importlib.util
import os
import sys

__version__ = "0.2.0.dev0"


def require_posix(system: str = os.name) -> None:
    """Raise an ImportError on a system without fork, SIGHUP and resource limits, which the programs stand on."""
    if system != "posix":
        raise ImportError(
            "dials_postrefine runs on Linux and macOS, whose processes it needs: on Windows use it within WSL."
        )


def require_dials() -> None:
    """Raise an ImportError that says how to get DIALS, unless this Python finds it.

    Nothing is imported.  A package named dials is not enough, as the one on PyPI is an empty placeholder: DIALS is the
    one with an array family, beside dxtbx.
    """
    dials = importlib.util.find_spec("dials")
    folders = (dials and dials.submodule_search_locations) or []
    if any(os.path.isdir(os.path.join(folder, "array_family")) for folder in folders):
        if importlib.util.find_spec("dxtbx"):
            return
    raise ImportError(
        f"dials_postrefine needs DIALS, which {sys.executable or 'this Python'} does not have: get it with "
        "'conda install -c conda-forge dials', or on Debian with 'apt-get install dials' for /usr/bin/python3."
    )


def _find_debian_cctbx() -> None:
    """Point libtbx at Debian's cctbx when we run in a virtual environment.

    libtbx looks for its configuration below sys.prefix, which is then the virtual environment, while Debian keeps it
    below the prefix of the Python that the environment was made from.
    """
    if sys.prefix == sys.base_prefix or "LIBTBX_BUILD" in os.environ:
        return
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    build = os.path.join(sys.base_prefix, "lib", "cctbx", version)
    if os.path.isdir(build):
        os.environ["LIBTBX_BUILD"] = build


require_posix()
require_dials()
_find_debian_cctbx()
