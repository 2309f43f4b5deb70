"""One module a program: parse, log, call, write.  Here is what the programs share: parsing, and the way to fail."""

from __future__ import annotations

import contextlib
import os
import sys


def parse_arguments(args, phil, usage: str, epilog: str):
    """
    Parse a command line of files and PHIL parameters: params, verbosity and the changed parameters as text.

    Bare names that end in .expt (.json) or .refl (.pickle) go to input.experiments and input.reflections; params is
    None, and the help is printed, where there is nothing to do.  Raises Sorry for what is neither file nor parameter.
    """
    from dials.util import Sorry
    from dials.util.options import ArgumentParser

    parser = ArgumentParser(usage=usage, phil=phil, epilog=epilog)
    args = sys.argv[1:] if args is None else [os.fspath(arg) for arg in args]
    params, options, unhandled = parser.parse_args(args, show_diff_phil=False, return_unhandled=True)
    if not args:
        parser.print_help()
        return None, 0, ""
    for name in unhandled:
        if name.endswith((".expt", ".json")):
            params.input.experiments.append(name)
        elif name.endswith((".refl", ".pickle")):
            params.input.reflections.append(name)
        elif "=" in name:
            raise Sorry(f"There is no parameter {name.split('=')[0]}: -c lists them all.")
        else:
            raise Sorry(f"{name} is neither an .expt nor a .refl file: check the name.")
    for names in (params.input.experiments, params.input.reflections):
        names[:] = [name for name in names if name is not None]
    return params, options.verbose, parser.diff_phil.as_str()


@contextlib.contextmanager
def exit_with_sorry():
    """A Sorry ends the program with its sentence alone, in red on a terminal, and exit status 1."""
    from dials.util import Sorry, enable_faulthandler, make_sys_exit_red

    with enable_faulthandler(), make_sys_exit_red():
        try:
            yield
        except Sorry as error:
            sys.exit(f"Sorry: {error}")
