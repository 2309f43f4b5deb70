"""
The values that a parameter can have: the types, limits and choices of phil/*.phil, which hold on the command line and
for a Request made in Python, with the same sentences.
"""

from __future__ import annotations

import re

from dials_postrefine.settings.binding import as_phil
from dials_postrefine.settings.scope import load


def check_values(program: str, request) -> None:
    """Raises Sorry for a value that a parameter of the program can't have; what has its default is good."""
    import iotbx.phil
    from dials.util import Sorry

    scope = load(program)
    try:
        working = scope.fetch(iotbx.phil.parse(as_phil(request, scope)))
        working.extract()
    except (Sorry, RuntimeError, ArithmeticError) as error:
        raise refusal(error) from None
    for changed in scope.fetch_diff(working).all_definitions():
        refuse_value(changed)


def refusal(error: Exception):
    """The Sorry for what PHIL has refused."""
    from dials.util import Sorry

    return Sorry(f"{one_line(error)}; -c -a2 shows what each parameter takes.")


def one_line(error: Exception) -> str:
    """An error's message as one line, without the place in the input that PHIL adds."""
    message = re.sub(r" *\((command line argument,|input) line \d+\)", "", str(error).rstrip(". \n"))
    return "; ".join(" ".join(part.split()) for part in message.split("\n", 1))


def refuse_value(changed) -> None:
    """Raises Sorry for Auto, None or NaN as the value of a changed parameter of PHIL that can't have it."""
    from dials.util import Sorry
    from libtbx import Auto

    kind = changed.object.type.phil_type
    if "none" in [word.value for word in changed.object.words]:  # a choice that means it
        return
    if kind != "choice" and changed.object.extract() is Auto and "Auto:" not in changed.object.help:
        raise Sorry(f"{changed.path}=Auto is not possible: give a value, or leave it out.")
    values = changed.object.extract() if kind in ("float", "floats") else None
    if any(value != value for value in (values if isinstance(values, list) else [values])):  # passes every limit
        raise Sorry(f"{changed.path}=nan is no number: give one.")
    if "None:" in changed.object.help:  # which says what it means
        return
    if kind in ("bool", "choice", "int", "float") and changed.object.extract() is None:
        raise Sorry(f"{changed.path}=None is not possible: give a value.")
