"""One module a program: parse, log, call, write.  Here is what the programs share: parsing, and the way to fail."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Sequence

import dials_postrefine
from dials_postrefine import interruption

logger = logging.getLogger("dials.postrefine")


def parse_arguments(args, phil, usage: str, epilog: str):
    """
    Parse a command line of files and PHIL parameters: params, verbosity and the changed parameters as text.

    Bare names that end in .expt (.json) or .refl (.pickle) go to input.experiments and input.reflections; params is
    None, and the help is printed, where there is nothing to do.  Raises Sorry for what is neither file nor parameter,
    and for values that a parameter can't have.
    """
    from dials.util import Sorry
    from libtbx import Auto

    parser = _argument_parser(usage=usage, phil=phil, epilog=epilog)
    args = sys.argv[1:] if args is None else [os.fspath(arg) for arg in args]
    _refuse_old_names(usage.split()[0], args)
    try:
        with _reader_may_leave():
            params, options, unhandled = parser.parse_args(args, show_diff_phil=False, return_unhandled=True)
    except (Sorry, RuntimeError, ArithmeticError, OSError) as error:  # how PHIL refuses a value or a file
        raise Sorry(f"{_one_line(error)}; -c -a2 shows what each parameter takes.") from None
    if not args:
        with _reader_may_leave():
            parser.print_help()
        return None, 0, ""
    for name in unhandled:
        if name.endswith((".expt", ".json")):
            params.input.experiments.append(name)
        elif name.endswith((".refl", ".pickle")):
            params.input.reflections.append(name)
        elif "=" in name:
            raise Sorry(f"{_refusal(parser.system_phil, name)}; -c lists all parameters.")
        elif name.endswith(".phil"):
            raise Sorry(f"{name} is missing or can't be read as PHIL parameters: check the file.")
        else:
            raise Sorry(f"{name} is neither an .expt nor a .refl file: check the name, or say which parameter it is.")
    for changed in parser.diff_phil.all_definitions():
        kind = changed.object.type.phil_type
        if "none" in [word.value for word in changed.object.words]:  # a choice that means it
            continue
        if kind != "choice" and changed.object.extract() is Auto and "Auto:" not in changed.object.help:
            raise Sorry(f"{changed.path}=Auto is not possible: give a value, or leave it out.")
        if "None:" in changed.object.help:  # which says what it means
            continue
        if kind in ("bool", "choice", "int", "float") and changed.object.extract() is None:
            raise Sorry(f"{changed.path}=None is not possible: give a value.")
    for names in (params.input.experiments, params.input.reflections):
        names[:] = [name for name in names if name is not None]
    return params, options.verbose, parser.diff_phil.as_str()


def _refuse_old_names(program: str, args: Sequence[str]) -> None:
    """Raises Sorry, which has the new name, for a renamed parameter in an argument or in a file of parameters."""
    from dials.util import Sorry

    from dials_postrefine.scopes import renamed

    for argument in (each.removeprefix("--phil=") for each in args):
        lines, where = [argument], ""
        if argument.endswith(".phil") and os.path.isfile(argument):
            with open(argument, encoding="utf-8", errors="replace") as file:
                lines, where = file.readlines(), f" in {argument}"
        depth = 0  # within braces it is another parameter
        for line in lines:
            name, equals, _ = line.partition("=")
            new = renamed(program, name.strip()) if equals and not depth else None
            if new:
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
        _stop_printing()
        sys.exit(0)


def _stop_printing() -> None:
    """Whatever is printed from now on goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def comma_lists(args, names: Sequence[str]) -> list[str]:
    """The arguments, name=a,b of these names with the comma that their help shows as PHIL has it, by blanks."""
    found = []
    for argument in map(os.fspath, sys.argv[1:] if args is None else args):
        name, equals, value = argument.partition("=")
        found.append(f"{name}={value.replace(',', ' ')}" if equals and name in names else argument)
    return found


def _refusal(phil, argument: str) -> str:
    """Why PHIL does not take name=value."""
    try:
        phil.command_line_argument_interpreter().process_arg(arg=argument)
    except Exception as error:  # whatever it is, the parser has just refused the same
        return _one_line(error)
    return f"{argument} can't be used"


def _one_line(error: Exception) -> str:
    """An error's message as one line, without the place in the command line that PHIL adds."""
    message = re.sub(r" *\(command line argument, line \d+\)", "", str(error).rstrip(". \n"))
    return "; ".join(" ".join(part.split()) for part in message.split("\n", 1))


def temporary_names(outputs, scope, needed: Sequence[str], optional: Sequence[str]) -> dict[str, str | None]:
    """
    Where to write each file of the PHIL scope `output`, None where an optional one is not wanted.

    Raises Sorry, before any work is done, where one of them can't be written.
    """
    from dials.util import Sorry

    names: dict[str, str | None] = {}
    for key in (*needed, *optional):
        path = getattr(scope, key)
        if not path and key in needed:
            raise Sorry(f"output.{key} has no file name: give one.")
        if key == "experiments" and not path.endswith((".expt", ".json")):
            raise Sorry(f"output.experiments={path} must end in .expt: DIALS knows experiments by it.")
        names[key] = outputs.temporary(path) if path else None
    return names


@contextlib.contextmanager
def show_progress(unit: str):
    """A function (what, done, total) that draws a bar on a terminal and nothing in a log."""
    from tqdm import tqdm

    from dials.util import progress

    # We draw from one process only; tqdm's own lock is a semaphore of the system, which some versions of Python report
    # as leaked.
    tqdm.set_lock(threading.RLock())
    with progress(total=1, unit=unit) as bar:

        def show(what: str, done: int, total: int) -> None:
            bar.total = total
            bar.set_description(what, refresh=False)
            bar.update(done - bar.n)

        yield show


def start_log(verbosity: int, path: str | None, diff_phil: str) -> str:
    """
    Log as DIALS does, to the terminal and to the file path, and begin with the versions, which are returned, and the
    parameters that were changed.

    What can't be written to the file, or to a full disk behind stdout, ends the run instead of a traceback for each
    line; a stdout that nobody reads any more (`| head`) does not end it.
    """
    from dials.util import log
    from dials.util.version import dials_version

    raises, logging.raiseExceptions = logging.raiseExceptions, False  # the first line is logged before we come to it
    try:
        log.config(verbosity, logfile=path)
    finally:
        logging.raiseExceptions = raises

    def fail(record) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, BrokenPipeError):
            raise error
        _stop_printing()

    for name in ("dials", "dxtbx", "py.warnings"):
        for handler in logging.getLogger(name).handlers:
            handler.handleError = fail
    version = f"{dials_version()}, dials_postrefine {dials_postrefine.__version__}"
    logger.info(version)
    if diff_phil:
        logger.info("The following parameters have been modified:\n\n%s", diff_phil)
    return version


@contextlib.contextmanager
def exit_with_sorry():
    """
    A Sorry ends the program with its sentence alone, in red on a terminal, and exit status 1.

    So do Ctrl-C, SIGTERM and SIGHUP, with a word and the exit status that shells give them.
    """
    with interruption.signals_interrupt():
        try:
            from dials.util import Sorry, enable_faulthandler, make_sys_exit_red  # takes a second or two

            with enable_faulthandler(), make_sys_exit_red():
                try:
                    yield
                except Sorry as error:
                    sys.exit(f"Sorry: {error}")
                except MemoryError:
                    sys.exit("Sorry: The memory does not suffice: use a smaller nproc, or fewer files at a time.")
        except KeyboardInterrupt as error:
            number = error.args[0] if error.args else signal.SIGINT
            with contextlib.suppress(OSError):  # the terminal may be gone
                print(interruption.WORDS[number], file=sys.stderr, flush=True)
            sys.exit(128 + number)
