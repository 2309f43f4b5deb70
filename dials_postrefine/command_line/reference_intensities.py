# LIBTBX_SET_DISPATCHER_NAME dials.reference_intensities
"""
Calculate reference intensities from an atomic model (X-rays, electrons or neutrons), or take them from a reflection
file, and bring them to the scale of data: bulk solvent, scale and overall anisotropic B are fitted, and the indexing
and hand that agree best are found.

Writes an MTZ and a scaled .refl/.expt pair with intensities, sigmas, amplitudes and phases, either of which
dials.postrefine takes as its reference.

Examples::

  dials.reference_intensities model.pdb reference_model.d_min=2

  dials.reference_intensities model.cif integrated.expt integrated.refl

  dials.reference_intensities quartz.cif scaled.expt scaled.refl radiation=electron

  dials.reference_intensities model.pdb data=merged.mtz data_labels=IMEAN,SIGIMEAN
"""

from __future__ import annotations

import logging
import os
import sys

from dials_postrefine.scopes import load

logger = logging.getLogger("dials.reference_intensities")

phil_scope = load("reference_intensities")

ENDINGS = (".pdb", ".ent", ".cif", ".mmcif", ".mtz")


def run(args: list[str] | None = None, phil=phil_scope) -> None:
    """Run dials.reference_intensities from the command line."""
    from dials_postrefine.command_line import exit_with_sorry, parse_arguments

    with exit_with_sorry():
        from dials.util import Sorry

        usage = "dials.reference_intensities [options] FILE [data.expt data.refl]"
        params, verbosity, provenance = parse_arguments(args, phil, usage, __doc__, _name_reference)
        if params is None:
            return
        if not params.input.reference:
            raise Sorry("A reference is needed: name an atomic model or a reflection file.")
        calculate_files(params, verbosity, provenance)


def calculate_files(params, verbosity: int, provenance) -> None:
    """Read the files that params name, calculate, write; raises Sorry for input that can't be used."""
    from dials_postrefine import log
    from dials_postrefine.command_line import temporary_names, unused_parameters
    from dials_postrefine.files.merged_data import Data, compute_for_data, read_data
    from dials_postrefine.files.outputs import Outputs
    from dials_postrefine.files.reference_model import Beam
    from dials_postrefine.files.reference_outputs import make_experiments, make_table, write_mtz
    from dials_postrefine.files.tables import write_table
    from dials_postrefine.report import reference as report
    from dials_postrefine.report.remarks import conclude, remark_lines
    from dials_postrefine.report.summary import write_summary
    from dials_postrefine.scopes import reference_settings

    settings, given, names = reference_settings(params.reference_model), params.input, {}
    with Outputs(provenance.inputs) as outputs:
        wanted = ["mtz", "reflections", "json", "log"] + ["experiments"] * bool(params.output.reflections)
        names = temporary_names(outputs, params.output, (), wanted)
        log.start(verbosity, names["log"], provenance)

        anomalous = not params.merge_friedel_mates
        space_group = str(params.space_group) if params.space_group else None
        data = read_data(
            given.experiments,
            given.reflections,
            given.data,
            given.data_labels,
            space_group,
            anomalous,
            settings.d_min,
            given.intensity_choice,
            settings.radiation,
        )
        data = data or Data(None, Beam())
        if given.wavelength:
            data.beam.wavelength = given.wavelength
        reference = compute_for_data(given.reference, settings, data, anomalous)
        summary = report.summarise(given.reference, reference)
        said = conclude([*report.remarks(summary), *unused_parameters(params, provenance)])
        summary |= {"provenance": provenance.as_dict(), **said}
        logger.info(report.text(summary))
        if names["json"]:
            write_summary(summary, names["json"])
        if names["mtz"]:
            write_mtz(reference, names["mtz"], os.path.basename(given.reference))
        if names["reflections"]:
            write_table(make_table(reference), names["reflections"])
            make_experiments(reference, data.detector).as_file(names["experiments"])
        logger.info("\n%s", remark_lines(summary))


def _name_reference(args: list[str]) -> list[str]:
    """
    The arguments with the bare name of a model or reflection file as input.reference=NAME; Sorry for two of them.

    Files that are there are known by their content, whatever their name, but .expt and .refl, which go in pairs.
    """
    from dials.util import Sorry

    bare = [arg for arg in args if "=" not in arg and not arg.startswith("-") and _may_be_reference(arg)]
    if len(bare) > 1:
        raise Sorry(f"{' and '.join(bare)} are given: name one reference, and the data with data=.")
    return [f'input.reference="{arg}"' if arg in bare else arg for arg in args]


def _may_be_reference(name: str) -> bool:
    if name.endswith((".expt", ".json", ".refl", ".pickle", ".phil")):
        return False
    if not os.path.isfile(name):
        return name.lower().endswith(ENDINGS)
    from dials_postrefine.files.file_kinds import Kind, kind_of

    return name.lower().endswith(ENDINGS) or kind_of(name) in (Kind.MTZ, Kind.CIF, Kind.PDB, Kind.XDS_ASCII)


if __name__ == "__main__":
    sys.exit(run())
