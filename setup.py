from __future__ import annotations

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py


class build_py_with_phil(build_py):
    """Carry the top-level folder phil/ into the package.

    An editable install needs no copy: the package finds the folder beside itself.
    """

    def run(self):
        super().run()
        if not getattr(self, "editable_mode", False):
            shutil.copytree("phil", Path(self.build_lib, "dials_postrefine", "phil"), dirs_exist_ok=True)


def read_version() -> str:
    """The version of the package, which can't be imported here: where it is built there may be no DIALS."""
    source = Path("dials_postrefine", "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "(.+)"$', source, re.MULTILINE).group(1)


# What DIALS brings, with Debian as with conda; tests/test_setup.py compares it with what is imported.  First cctbx and
# its kin, then what they need themselves: threadpoolctl comes with scikit-learn, mrcfile with cctbx.
SUPPLIED_BY_DIALS = """
boost_adaptbx cctbx dials dxtbx iotbx libtbx mmtbx scitbx simtbx smtbx xfel
h5py jinja2 matplotlib mrcfile psutil sklearn tabulate threadpoolctl tqdm
"""
# numba, which compiles the loops of stills/ and diffuse/, asks for a coverage newer than that of Debian, wherever there
# is one.
REQUIRED = ["numpy", "scipy", "numba", "coverage>=7"]
TEST = ["gemmi", "hypothesis", "pytest>=7", "pytest-xdist", "pyyaml"]
# To be started by mpirun or srun.  pip's package finds the MPI that is installed (apt-get install openmpi-bin); Debian
# has one of its own, python3-mpi4py, as conda-forge has mpi4py.
MPI = ["mpi4py"]
# Another minor version of ruff may format otherwise.
DEV = [*TEST, "ruff~=0.17.5"]

setup(
    name="dials_postrefine",
    version=read_version(),
    description="Postrefinement, diffuse scattering and electron diffraction as DIALS programs",
    license="BSD-3-Clause",
    license_files=["LICENSE"],
    python_requires=">=3.9",
    classifiers=["Operating System :: POSIX :: Linux", "Operating System :: MacOS"],
    # DIALS and cctbx are required but not listed: pip can't tell that they are there (Debian's metadata carries other
    # version numbers, PyPI's dials is an empty placeholder) and would put a second, clashing cctbx beside the first.
    # The package says how to get DIALS when it is imported without.
    install_requires=REQUIRED,
    extras_require={"test": TEST, "dev": DEV, "mpi": MPI},
    packages=find_packages(include=["dials_postrefine", "dials_postrefine.*"]),
    # Said in full so that setuptools makes an editable install by a plain path: its other way, an import hook, loses
    # to the folder above the checkout, which libtbx builds have on the path.
    package_dir={"": "."},
    include_package_data=True,
    # By name: with that package_dir what MANIFEST.in names does not count as the package's.
    package_data={"dials_postrefine.report.common": ["templates/*.html"]},
    cmdclass={"build_py": build_py_with_phil},
    entry_points={
        "console_scripts": [
            "dials.postrefine = dials_postrefine.command_line.postrefine:run",
            "dials.diffuse_map = dials_postrefine.command_line.diffuse_map:run",
            "dials.diffuse_model = dials_postrefine.command_line.diffuse_model:run",
            "dials.dynamical = dials_postrefine.command_line.dynamical:run",
            "dials.image_spread = dials_postrefine.command_line.image_spread:run",
            "dials.intensity_model = dials_postrefine.command_line.intensity_model:run",
            "dials.reference_intensities = dials_postrefine.command_line.reference_intensities:run",
            "dials.fine_refine = dials_postrefine.command_line.fine_refine:run",
        ]
    },
    zip_safe=False,
)
