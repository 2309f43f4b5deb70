"""Run by libtbx when it configures a build that has this checkout among its modules.

libtbx finds the programs in command_line/ and puts the package on their path by itself.  What is left is the package's
metadata, with the entry points, which an editable install writes.  It may fail, for instance where the Python belongs
to somebody else: the programs of the build work without.
"""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata

import libtbx.load_env

subprocess.run(
    [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--editable"]
    + [libtbx.env.dist_path("dials_postrefine")],
    check=False,
)
try:
    print("dials_postrefine", metadata.version("dials_postrefine"))
except metadata.PackageNotFoundError:
    print("dials_postrefine: no metadata, as pip could not install the checkout; its programs work without")
