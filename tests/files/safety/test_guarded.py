"""A function in a process of its own: results, errors with their traceback, and each way to die."""

from __future__ import annotations

import os
import signal
import sys
import traceback

import pytest

import dials_postrefine  # noqa: F401  (makes cctbx findable)

pytest.importorskip("dials.util", reason="Sorry is of DIALS")

from dials.util import Sorry

from dials_postrefine.files.safety.guarded import ChildFailed, call_in_child

pytestmark = pytest.mark.dials


class NeedsTwo(Exception):
    def __init__(self, place, reason):
        super().__init__(f"{place}: {reason}")
        self.reader = lambda: place


class WordySorry(Sorry):
    def __init__(self, place, reason):
        super().__init__(f"{place}: {reason}")


class Result:
    def __reduce__(self):
        return int, ("seven",)


def read(path):
    way = open(path).read()
    if way == "result":
        return {"length": len(way)}
    if way == "error":
        raise NeedsTwo("byte 7", "no number")
    if way == "sorry":
        raise WordySorry("byte 7", "give another file")
    if way == "exit":
        sys.exit(0)
    if way == "not pickled":
        return lambda: way
    if way == "not unpickled":
        return Result()
    os.kill(os.getpid(), signal.Signals[way])


@pytest.fixture
def call(tmp_path):
    def call(way):
        (tmp_path / "file").write_text(way)
        return call_in_child(read, str(tmp_path / "file"))

    return call


def test_result_and_sorry_come_through(call):
    assert call("result") == {"length": 6}
    with pytest.raises(Sorry, match="^byte 7: give another file$"):
        call("sorry")


@pytest.mark.parametrize("way, words", [("error", "NeedsTwo: byte 7: no number"), ("exit", "SystemExit: 0")])
def test_errors_come_with_their_traceback(call, way, words):
    with pytest.raises(ChildFailed, match=words) as caught:
        call(way)
    told = "".join(traceback.format_exception(caught.type, caught.value, caught.tb))
    assert "in read" in told and __file__ in told


@pytest.mark.parametrize("way, words", [("not pickled", "lambda"), ("not unpickled", "result can't be read.*seven")])
def test_a_result_that_pickle_does_not_take_is_said_to_be_one(call, way, words):
    with pytest.raises(ChildFailed, match=words):
        call(way)


@pytest.mark.parametrize("way, words", [("SIGKILL", "was killed"), ("SIGSEGV", r"crashed \(signal SIGSEGV\)")])
def test_the_way_it_died_is_told(call, way, words):
    with pytest.raises(ChildFailed, match=words):
        call(way)
