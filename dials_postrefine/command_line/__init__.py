"""One module a program: parse, call, exit.  Here is what they share: parsing, and the way to end."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Optional

from dials_postrefine import log
from dials_postrefine.executors import mpi
from dials_postrefine.executors.signals import WORDS, signals_interrupt

# How names of files end: experiments, reflections, and references, which are no data.
EXPERIMENTS, REFLECTIONS = (".expt", ".json"), (".refl", ".pickle")
REFERENCES = (".pdb", ".ent", ".cif", ".mmcif", ".mtz")

# turns the arguments of a program into what PHIL understands
Prepare = Optional[Callable[[list[str]], list[str]]]


def run_program(args, phil, usage: str, epilog: str, load: Callable[[], tuple], prepare: Prepare = None) -> None:
    """
    Parse a command line (parse_arguments), and run the program with its Request; the way out is exit_with_sorry's.

    load imports the program once there is something to do, which takes a second or two: its run and its Request.  Of
    the tasks that MPI starts one runs the program, and the others serve it (executors/mpi.py).
    """
    with mpi.ranks() as works:
        if not works:
            return
        with exit_with_sorry():
            params, launch = parse_arguments(args, phil, usage, epilog, prepare)
            if params is None:
                return
            from dials_postrefine.settings.binding import from_scope

            run, request = load()
            run(from_scope(request, params), launch)


def parse_arguments(args, phil, usage: str, epilog: str, prepare: Prepare = None):
    """
    Parse a command line of files and PHIL parameters: params, and the launch of the program, with its provenance.

    The program's name is the first word of usage; prepare turns the arguments into what PHIL understands.  Bare
    names that end in .expt (.json) or .refl (.pickle) go to input.experiments and input.reflections; params is
    None, and the help is printed, where there is nothing to do.  Raises Sorry for what is neither file nor parameter,
    and for values that a parameter can't have.
    """
    from dials.util import Sorry

    from dials_postrefine.programs.launch import Launch
    from dials_postrefine.report.common.provenance import files_among, record_run
    from dials_postrefine.settings.limits import refusal, refuse_value

    parser = _argument_parser(usage=usage, phil=phil, epilog=epilog)
    given = sys.argv[1:] if args is None else [os.fspath(arg) for arg in args]
    args = prepare(given) if prepare else given
    _refuse_old_names(usage.split()[0], args)
    try:
        with _reader_may_leave():
            params, options, unhandled = parser.parse_args(args, show_diff_phil=False, return_unhandled=True)
    except (Sorry, RuntimeError, ArithmeticError, OSError) as error:  # how PHIL refuses a value or a file
        raise refusal(error) from None
    if not args:
        with _reader_may_leave():
            parser.print_help()
        return None, None
    for name in unhandled:
        _take_name(name, params.input, parser.system_phil)
    changed = parser.diff_phil.all_definitions()
    for one in changed:
        refuse_value(one)
    for names in (
        getattr(params.input, kind) for kind in ("experiments", "reflections") if hasattr(params.input, kind)
    ):
        names[:] = [name for name in names if name is not None]
    command, parameters = [usage.split()[0], *given], parser.diff_phil.as_str()
    inputs = files_among([*given, *_words(parser.system_phil.format(params))])
    return params, Launch(record_run(command, inputs, parameters), options.verbose, tuple(one.path for one in changed))


def _take_name(name: str, input_files, phil) -> None:
    """Put the name of a file or folder where it belongs; raises Sorry for what is neither an .expt nor a .refl file."""
    from dials.util import Sorry

    if name.endswith(EXPERIMENTS) or (os.path.isdir(name) and hasattr(input_files, "file_list")):
        input_files.experiments.append(name)
    elif name.endswith(REFLECTIONS):
        input_files.reflections.append(name)
    elif "=" in name:
        raise Sorry(f"{_refusal(phil, name)}; -c lists all parameters.")
    elif name.endswith(".phil"):
        raise Sorry(f"{name} is missing or can't be read as PHIL parameters: check the file.")
    elif os.path.isfile(name):
        raise Sorry(_of_no_parameter(name))
    else:
        raise Sorry(f"{name} is neither an .expt nor a .refl file: check the name, or say which parameter it is.")


def _words(phil) -> Iterator[str]:
    """The words of the values of parameters, but for those of `output`."""
    for parameter in phil.all_definitions():
        if not parameter.path.startswith("output."):
            yield from (word.value for word in parameter.object.words)


def _of_no_parameter(path: str) -> str:
    """What to do with a file that is given without a parameter, and has not the name of experiments or reflections."""
    from dials_postrefine.files.reference.file_kinds import Kind, compression, kind_of

    kind, packed = kind_of(path), compression(path)
    if packed and kind in (Kind.EXPERIMENTS, Kind.TABLE):
        return f"{path} is {kind.value} compressed by {packed}, which DIALS does not read: unpack it first."
    return f"{path} is neither an .expt nor a .refl file, but {kind.value}: say which parameter it is, or rename it."


def _refuse_old_names(program: str, args: Sequence[str]) -> None:
    """Raises Sorry, which has the new name, for a renamed parameter in an argument or in a file of parameters."""
    from dials.util import Sorry

    from dials_postrefine.settings.scope import renamed

    for argument in (each.removeprefix("--phil=") for each in args):
        lines, where = [argument], ""
        if argument.endswith(".phil") and os.path.isfile(argument):
            with open(argument, encoding="utf-8", errors="replace") as file:
                lines, where = file.readlines(), f" in {argument}"
        depth = 0  # within braces it is another parameter
        for line in lines:
            name, equals, _ = line.partition("=")
            new = renamed(program, name.strip()) if equals and not depth else None
            if new and (where or not new.endswith(f".{name.strip()}")):  # as an argument the end of a name will do
                raise Sorry(f"{name.strip()}={where} is {new}= since version 0.2: write {new}= instead.")
            depth += (line.count("{") - line.count("}")) * bool(where)


def _argument_parser(**kwargs):
    """DIALS' parser, of which the newest, too, refuses by an exception instead of the usage text and exit status 2."""
    from dials.util import Sorry
    from dials.util.options import ArgumentParser

    class Parser(ArgumentParser):
        def error(self, message):
            raise Sorry(message.removeprefix("Invalid phil parameter: "))

    return Parser(**kwargs)


@contextlib.contextmanager
def _reader_may_leave():
    """Where nobody reads any more what is printed in the block (`-h | head`), the program ends without a word."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        log.stop_printing()
        sys.exit(0)


def comma_lists(args: Sequence[str], names: Sequence[str]) -> list[str]:
    """The arguments, name=a,b of these names with the comma that their help shows as PHIL has it, by blanks."""
    found = []
    for argument in args:
        name, equals, value = argument.partition("=")
        found.append(f"{name}={value.replace(',', ' ')}" if equals and name in names else argument)
    return found


def name_reference(args: Sequence[str]) -> list[str]:
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
    if name.endswith((*EXPERIMENTS, *REFLECTIONS, ".phil")):
        return False
    if name.lower().endswith(REFERENCES) or not os.path.isfile(name):
        return name.lower().endswith(REFERENCES)
    from dials_postrefine.files.reference.file_kinds import Kind, kind_of

    return kind_of(name) in (Kind.MTZ, Kind.CIF, Kind.PDB, Kind.XDS_ASCII)


def _refusal(phil, argument: str) -> str:
    """Why PHIL does not take name=value."""
    from dials_postrefine.settings.limits import one_line

    try:
        phil.command_line_argument_interpreter().process_arg(arg=argument)
    except Exception as error:  # whatever it is, the parser has just refused the same
        return one_line(error)
    return f"{argument} can't be used"


@contextlib.contextmanager
def exit_with_sorry():
    """
    A Sorry ends the program with its sentence alone, in red on a terminal, and exit status 1.

    So do Ctrl-C, SIGTERM and SIGHUP, with a word and the exit status that shells give them.  Whatever it is that ends
    the program is the last that the log says.
    """
    with signals_interrupt():
        try:
            from dials.util import Sorry, enable_faulthandler, make_sys_exit_red  # takes a second or two

            with enable_faulthandler(), make_sys_exit_red():
                try:
                    log.print_any_name()
                    yield
                except Sorry as error:
                    _end(f"Sorry: {error}")
                except MemoryError:
                    _end("Sorry: The memory does not suffice: use a smaller nproc, or fewer files at a time.")
        except KeyboardInterrupt as error:
            number = error.args[0] if error.args else signal.SIGINT
            lost = mpi.lost()
            words = f"Sorry: {lost}" if lost else WORDS[number]
            log.add_to_files(words)
            with contextlib.suppress(OSError):  # the terminal may be gone
                print(words, file=sys.stderr, flush=True)
            sys.exit(128 + number)
        except Exception:
            log.add_to_files(traceback.format_exc().rstrip())
            raise
        finally:
            log.end()


def _end(sentence: str) -> None:
    log.add_to_files(sentence)
    sys.exit(sentence)
