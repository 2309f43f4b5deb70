"""
Damage input files at random and run dials.postrefine on them: a sentence or a correct run, whatever is in a file.

    python benchmarks/fuzz_files.py SECONDS [SEED]

Damaged are the .expt, the .refl and the reference .mtz of simulated stills and, where they lie beside the checkout, of
real ones: cut, bits flipped, blocks zeroed, deleted, doubled or exchanged, numbers replaced by those that break things.
Each run is a process of its own, with limits of time and memory.  Allowed are a Sorry of one sentence that leaves all
files alone, and a run whose output DIALS can read, with finite numbers in the rows that were used.  A traceback, a
signal, a warning, a hang or too much memory is a finding: it is printed, its file is kept in fuzz_findings/, and the
exit status is 1.  tests/files/safety/test_damaged_files.py does the same for a bounded time.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import resource
import selectors
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import dials_postrefine  # noqa: F401  (makes cctbx findable)
from dials_postrefine.command_line import postrefine
from dials_postrefine.files.safety.msgpack_structure import check_table
from dials_postrefine.numerics.indices import to_flex_miller

OUTPUTS = ("postrefined.expt", "postrefined.refl", "dials.postrefine.log", "dials.postrefine.json")
SECONDS = 60.0
MEMORY = 3 << 30  # bytes, beyond what the process has when it starts
BYTES = ("cut", "flip", "zero", "delete", "double", "exchange", "number")
# By the ending: what it does to numbers inside a sound file reaches further than what it does to bytes.
KINDS = {".expt": (*BYTES, *7 * ["leaf"]), ".refl": (*BYTES, *3 * ["number"], *7 * ["column"]), ".mtz": BYTES}
# What breaks things, as bytes in a table and as text in JSON.
NUMBERS = (0.0, -1.0, 1e-300, 1e300, -1e300, float("nan"), float("inf"), 5e-324, 1e18)
INTEGERS = (0, -1, 1, 2**31 - 1, -(2**31), 2**32 - 1, 2**62, 10**6)
LEAVES = (None, True, "", "x", [], {}, [[]], *NUMBERS, *INTEGERS, 10**400, [0.0] * 3, [0.0] * 9, [1e300] * 3)


@dataclass(frozen=True)
class Damage:
    """One thing that happens to a file: where from and to are fractions of its length, which chooses among values."""

    kind: str
    where: float
    to: float
    which: int

    def apply(self, content: bytes) -> bytes:
        """The content after it."""
        n = len(content)
        if not n:
            return content
        i = int(self.where * (n - 1))
        j = min(n, i + 1 + int(self.to**4 * (n - i)))  # mostly short
        block = content[i:j]
        if self.kind == "cut":
            return content[:i]
        if self.kind == "flip":
            return content[:i] + bytes([content[i] ^ 1 << self.which % 8]) + content[i + 1 :]
        if self.kind == "zero":
            return content[:i] + bytes(j - i) + content[j:]
        if self.kind == "delete":
            return content[:i] + content[j:]
        if self.kind == "double":
            return content[:j] + block + content[j:]
        if self.kind == "exchange":
            k = min(n, j + len(block))
            return content[:i] + content[j:k] + block + content[k:]
        if self.kind == "number":
            values = [np.float64(x).tobytes() for x in NUMBERS] + [
                np.array(x).astype(np.int64).astype(kind).tobytes() for x in INTEGERS for kind in (np.int32, np.int64)
            ]
            value = values[self.which % len(values)]
            return content[:i] + value + content[i + len(value) :]
        return self._replace_leaf(content) if self.kind == "leaf" else self._replace_in_column(content)

    def _replace_in_column(self, content: bytes) -> bytes:
        """One number of each row of some, or all, in one column of a reflection table."""
        from dials.array_family import flex
        from dxtbx import flumpy

        try:
            check_table(content)
        except ValueError:
            return content
        table = flex.reflection_table.from_msgpack(content)
        names = sorted(table.keys())
        name = names[int(self.where * (len(names) - 1))]
        if self.to < 0.1:
            del table[name]
            return table.as_msgpack()
        column = table[name]
        vectors = {flex.vec3_double: 3, flex.vec2_double: 2, flex.mat3_double: 9, flex.int6: 6, flex.miller_index: 3}
        n = vectors.get(type(column), 1)
        if isinstance(column, (flex.miller_index, flex.int6)):
            parts = [flumpy.to_numpy(part).copy() for part in column.as_vec3_double().parts()] if n == 3 else []
        else:
            parts = [flumpy.to_numpy(column).copy().reshape(-1, n)[:, i] for i in range(n)]
        if not parts:
            return content
        part = parts[self.which % len(parts)]
        rows = slice(int(self.to * len(part)), None, 1 + self.which % 7)
        values = NUMBERS if part.dtype.kind == "f" and not isinstance(column, flex.miller_index) else INTEGERS
        with np.errstate(all="ignore"):
            part[rows] = np.array(values[self.which % len(values)]).astype(np.float64).astype(part.dtype)
            if isinstance(column, flex.miller_index):
                table[name] = to_flex_miller(np.stack(parts, axis=1).astype(np.int64).astype(np.int32))
            elif n == 1:
                table[name] = flumpy.from_numpy(np.ascontiguousarray(part))
            else:
                table[name] = flumpy.vec_from_numpy(np.ascontiguousarray(np.stack(parts, axis=1)))
        return table.as_msgpack()

    def _replace_leaf(self, content: bytes) -> bytes:
        try:
            whole = json.loads(content)
        except ValueError:
            return content
        places = list(_places(whole))
        holder, key = places[int(self.where * (len(places) - 1))]
        if self.to < 0.1:
            del holder[key]
        else:
            holder[key] = LEAVES[self.which % len(LEAVES)]
        return json.dumps(whole).encode()


def _places(node):
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in list(items):
        yield node, key
        yield from _places(value)


@dataclass
class Sample:
    """A folder with input files, and earlier output files; the arguments that name the input; what can be damaged."""

    folder: Path
    arguments: list[str]
    targets: list[str]


def simulated_sample(folder: Path) -> Sample:
    """Eight small lattices and the true intensities as reference."""
    from dials_postrefine.simulate.still_files import write_stills
    from dials_postrefine.simulate.stills import StillsOptions, simulate_stills

    write_stills(simulate_stills(StillsOptions(n_lattices=8, seed=1, d_min=3.5)), str(folder / "stills"))
    arguments = ["stills.expt", "stills.refl", "reference=stills_truth.mtz"]
    return _sample(folder, arguments, ["stills.expt", "stills.refl", "stills_truth.mtz"])


def real_samples(shared: Path, folder: Path) -> list[Sample]:
    """Small real stills from two programs, and a reference."""
    samples = []
    for name, reference in (("thermolysin_xfel_3_abismal", "2tli_icalc_93.4_131.1_1.6A.mtz"), ("cunir_ssx_5", "")):
        pair = [path for kind in ("expt", "refl") for path in sorted((shared / name).glob(f"*.{kind}"))]
        if len(pair) != 2:
            continue
        own = folder / name
        own.mkdir()
        for path in pair:
            shutil.copyfile(path, own / path.name)
        arguments = [*(path.name for path in pair), "space_group=P6122" if reference else "space_group=P213"]
        samples.append(_sample(own, arguments, [path.name for path in pair]))
    return samples


def _sample(folder: Path, arguments: list[str], targets: list[str]) -> Sample:
    for name in OUTPUTS:
        (folder / name).write_text(f"{name} of an earlier run\n")
    # to draw the report takes longer than all the rest
    return Sample(folder, [*arguments, "n_cycles=1", "nproc=1", "d_min=3", "output.html=None"], targets)


def try_damaged(sample: Sample, target: str, damages: Sequence[Damage]) -> tuple[str, str]:
    """
    Run the program with the target file damaged: what came of it ("sorry", "done" or "finding"), and the message.

    All files of the folder are as before afterwards.
    """
    before = {path.name: path.read_bytes() for path in sample.folder.iterdir()}
    content = before[target]
    for damage in damages:
        content = damage.apply(content)
    if content == before[target]:
        return "unchanged", ""
    (sample.folder / target).write_bytes(content)
    try:
        outcome, message = run_limited(sample.folder, sample.arguments)
        after = {path.name: path.read_bytes() for path in sample.folder.iterdir()}
        others = {name: text for name, text in after.items() if not (outcome == "done" and _is_output(name))}
        others = {name: text for name, text in others.items() if not name.endswith(".log")}  # which is live
        expected = {name: before[name] for name in before if name in others} | {target: content}
        if outcome != "finding" and others != expected:
            changed = sorted(name for name in others if others[name] != expected.get(name))
            return "finding", f"changed files {changed} after {outcome}: {message}"
        return outcome, message
    finally:
        for path in sample.folder.iterdir():
            if path.name not in before:
                path.unlink()
        for name, text in before.items():
            (sample.folder / name).write_bytes(text)


def _is_output(name: str) -> bool:
    return name.startswith(("postrefined.", "dials.postrefine."))


def run_limited(folder: Path, arguments: Sequence[str]) -> tuple[str, str]:
    """Run the program in a forked process: "sorry", "done" or "finding", and the message."""
    read, write = os.pipe()
    with tempfile.TemporaryFile() as printed:
        pid = os.fork()
        if pid == 0:
            os.close(read)
            try:
                _limit(printed.fileno())
                os.chdir(folder)
                answer = _run(arguments)
            except BaseException:
                answer = "finding", traceback.format_exc()
            try:
                sys.stdout.flush()
                sys.stderr.flush()
                os.write(write, pickle.dumps(answer)[:60000])
            finally:
                os._exit(0)
        os.close(write)
        with selectors.DefaultSelector() as selector:
            selector.register(read, selectors.EVENT_READ)
            in_time = bool(selector.select(SECONDS))
        answer = b""
        if in_time:
            while block := os.read(read, 65536):
                answer += block
        os.close(read)
        os.kill(pid, signal.SIGKILL) if not in_time else None
        status = os.waitpid(pid, 0)[1]
        printed.seek(0)
        text = printed.read().decode(errors="replace")
    if not in_time:
        return "finding", f"no end after {SECONDS:.0f} s"
    if os.WIFSIGNALED(status) or not answer:
        return "finding", f"ended by signal {os.WTERMSIG(status)}: {text[-3000:]}"
    outcome, message = pickle.loads(answer)
    words = [line for line in text.splitlines() if "Warning" in line or "Traceback" in line or "rror:" in line]
    if outcome != "finding" and words:
        return "finding", f"printed: {words[:4]}"
    return outcome, message


def _limit(output: int) -> None:
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    sys.stdout, sys.stderr = (open(descriptor, "w", closefd=False) for descriptor in (1, 2))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))


def _run(arguments: Sequence[str]) -> tuple[str, str]:
    try:
        postrefine.run(list(arguments))
    except SystemExit as stop:
        message = str(stop.code)
        good = (
            message.startswith("Sorry: ") and message.endswith(".") and "\n" not in message and "memory" not in message
        )
        return ("sorry" if good else "finding"), message
    return _check_outputs()


def _check_outputs() -> tuple[str, str]:
    from dials.array_family import flex
    from dxtbx import flumpy
    from dxtbx.model.experiment_list import ExperimentList

    experiments = ExperimentList.from_file(OUTPUTS[0], check_format=False)
    table = flex.reflection_table.from_file(OUTPUTS[1])
    table.assert_experiment_identifiers_are_consistent(experiments)
    used = table.select(table.get_flags(table.flags.scaled))
    if not len(used):
        return "finding", "no row was used"
    for name in ("intensity.scale.value", "intensity.scale.variance", "inverse_scale_factor", "partiality"):
        if not np.isfinite(flumpy.to_numpy(used[name])).all():
            return "finding", f"{name} is not finite"
    for name in ("intensity.scale.variance", "inverse_scale_factor", "partiality"):
        if not (flumpy.to_numpy(used[name]) > 0.0).all():
            return "finding", f"{name} is not positive"
    json.loads(Path(OUTPUTS[3]).read_text(), parse_constant=lambda text: sys.exit(f"{text} in {OUTPUTS[3]}"))
    return "done", ""


def random_damages(rng: random.Random, ending: str) -> list[Damage]:
    """One to three, now and then many."""
    n = rng.choice((1, 1, 1, 1, 2, 3, 20))
    return [Damage(rng.choice(KINDS[ending]), _place(rng), rng.random(), rng.randrange(1000)) for _ in range(n)]


def _place(rng: random.Random) -> float:
    return rng.random() ** rng.choice((1, 1, 6))  # half of the time near the beginning, where the headers are


def main(seconds: float, seed: int) -> int:
    """Fuzz for so long; the number of findings."""
    rng, outcomes, n_findings = random.Random(seed), Counter(), 0
    sentences: Counter = Counter()
    kept = Path("fuzz_findings")
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder:
        (simulated := Path(folder, "simulated")).mkdir()
        samples = [simulated_sample(simulated)]
        shared = Path(__file__).resolve().parents[2] / "shared" / "data"
        if shared.is_dir():
            samples += real_samples(shared, Path(folder))
        for sample in samples:
            outcome, message = run_limited(sample.folder, sample.arguments)
            if outcome != "done":
                sys.exit(f"{sample.arguments} do not even run undamaged: {message}")
            for name in OUTPUTS:
                (sample.folder / name).write_text(f"{name} of an earlier run\n")
        while time.monotonic() < end:
            sample = rng.choice(samples)
            target = rng.choice(sample.targets)
            damages = random_damages(rng, Path(target).suffix)
            outcome, message = try_damaged(sample, target, damages)
            outcomes[f"{Path(target).suffix} {outcome}"] += 1
            sentences[message.split(" (")[0][:60]] += outcome == "sorry"
            if outcome == "finding":
                n_findings += 1
                kept.mkdir(exist_ok=True)
                content = (sample.folder / target).read_bytes()
                for damage in damages:
                    content = damage.apply(content)
                path = kept / f"{seed}-{n_findings}-{sample.folder.name}-{target}"
                path.write_bytes(content)
                print(f"FINDING {path}\n  {damages[:3]}\n  {message}\n", flush=True)
    print(f"{sum(outcomes.values())} runs in {seconds:.0f} s: {dict(sorted(outcomes.items()))}")
    for sentence, n in sentences.most_common(40):
        print(f"{n:6d}  {sentence}")
    return n_findings


if __name__ == "__main__":
    sys.exit(1 if main(float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0) else 0)
