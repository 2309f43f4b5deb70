"""Signals where what they raise would be lost."""

from __future__ import annotations

import os
import pickle
import time

import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)
from dials_postrefine.executors.signals import WORDS, signals_interrupt, signals_postponed


class Interrupted:
    """Sends a signal to this process while it is unpickled."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self):
        return os.kill, (os.getpid(), self.number)


def _numba_unpickle(content: bytes) -> str:
    """As numba's function of this name is: compiled code calls it, prints what it raises, and goes on."""
    try:
        pickle.loads(content)
    except KeyboardInterrupt:
        return "lost"
    return "done"


@pytest.mark.parametrize("number", WORDS)
def test_a_signal_is_not_lost_where_compiled_code_calls_python(number):
    answers = []
    with pytest.raises(KeyboardInterrupt) as error, signals_interrupt():
        answers.append(_numba_unpickle(pickle.dumps(Interrupted(number))))
        time.sleep(5.0)
    assert answers == ["done"] and error.value.args == (number,)


@pytest.mark.parametrize("number", WORDS)
def test_a_postponed_signal_comes_at_the_end_of_the_block(number):
    done = []
    with pytest.raises(KeyboardInterrupt) as error, signals_interrupt():
        with signals_postponed():
            os.kill(os.getpid(), number)
            done.append("in the block")
        done.append("after it")
    assert done == ["in the block"] and error.value.args == (number,)
