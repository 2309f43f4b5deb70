"""
What a worker answers to a function and its arguments, as bytes: an error or None, and the result.

An exception comes through with the worker's traceback as its cause.  One that pickle can't take apart and put together
again comes as its nearest base class that it can, or as WorkerFailed; so does a result of that kind, and SystemExit,
which is no reason for the program to end as if all were well.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from multiprocessing.pool import ExceptionWithTraceback
from typing import Any

from dials_postrefine.numerics.run import WorkerFailed, describe_error


def answer(call: Callable[[], Any]) -> bytes:
    """What call() gives or raises."""
    try:
        return pickle.dumps((None, call()))
    except BaseException as error:  # signals are for the parent, so that also KeyboardInterrupt is the function's own
        return refusal(error)


def refusal(error: BaseException) -> bytes:
    """The answer that is this error."""
    return pickle.dumps((_portable(error), None))


def read_answer(content: bytes) -> tuple[Exception | None, Any]:
    """The error, or None, and the result."""
    try:
        return pickle.loads(content)
    except Exception as error:
        failed = WorkerFailed(f"the result of a worker process can't be read, {describe_error(error)}")
        failed.__cause__ = error
        return failed, None


def _portable(error: BaseException) -> ExceptionWithTraceback:
    """The error, or what stands for it (module docstring), with its traceback, so that it can be pickled."""
    kinds = [kind for kind in type(error).__mro__[1:] if kind not in (Exception, BaseException, object)]
    if not isinstance(error, Exception):
        kinds = []
    for make in [lambda: error, *(lambda kind=kind: kind(str(error)) for kind in kinds)]:
        try:
            packed = ExceptionWithTraceback(make(), error.__traceback__)
            if isinstance(pickle.loads(pickle.dumps(packed)), Exception):
                return packed
        except Exception:  # whatever a class may do there
            continue
    return ExceptionWithTraceback(WorkerFailed(describe_error(error)), error.__traceback__)
