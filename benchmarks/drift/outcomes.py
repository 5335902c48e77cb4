"""What was simulated, by the arguments and the code that it follows from: it is long, and a stop loses nothing.

It stands in `.bench/drift.json`. Delete that to simulate all anew.
"""

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILE = ROOT / ".bench" / "drift.json"


def processes() -> ProcessPoolExecutor:
    """Two at most. They begin anew: polars stands still in a process that was forked."""
    return ProcessPoolExecutor(min(2, len(os.sched_getaffinity(0))), mp_context=get_context("spawn"))


class Outcomes:
    """code: patterns of the files that decide what comes out; paths from the root."""

    def __init__(self, processes: ProcessPoolExecutor, code: Sequence[str]):
        self._processes, self._code = processes, _digest(code)
        self._known: dict[str, object] = json.loads(FILE.read_text()) if FILE.exists() else {}

    def of(self, function: Callable, given: Sequence[tuple]) -> list:
        """What `function` returns of each of these arguments, as JSON has it."""
        names = [f"{function.__name__} {self._code} {one!r}" for one in given]
        waiting = {
            self._processes.submit(function, *one): name
            for name, one in zip(names, given, strict=True)
            if name not in self._known
        }
        for done in as_completed(waiting):
            self._known[waiting[done]] = done.result()
            self._keep()
        return [self._known[name] for name in names]

    def _keep(self) -> None:
        FILE.parent.mkdir(exist_ok=True)
        beside = FILE.with_suffix(".new")
        beside.write_text(json.dumps(self._known, indent=1))
        beside.replace(FILE)


def _digest(code: Sequence[str]) -> str:
    files = sorted(path for pattern in code for path in ROOT.glob(pattern))
    return sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]
