"""What was simulated, by the arguments and the code that it follows from: it is long, and a stop loses nothing.

It stands in `.bench/drift.json`. Delete that to simulate all anew. Of the package the code counts that the simulation
reaches, definition by definition and without comments: a changed page or command throws no hours away.
"""

import ast
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path

from mlops_ray.import_closure import is_ours, names_wanted, our_code

ROOT, HERE = Path(__file__).parents[2], Path(__file__).parent
FILE = ROOT / ".bench" / "drift.json"


def processes() -> ProcessPoolExecutor:
    """Two at most. They begin anew: polars stands still in a process that was forked."""
    return ProcessPoolExecutor(min(2, len(os.sched_getaffinity(0))), mp_context=get_context("spawn"))


class Outcomes:
    """code: names of the files beside this one that decide what comes out, with what they reach."""

    def __init__(self, processes: ProcessPoolExecutor, code: Sequence[str]):
        self._processes, self._code = processes, digest_of(code)
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


def digest_of(code: Sequence[str]) -> str:
    """Of these files and of all that they reach."""
    files = [(HERE / f"{name}.py").read_bytes() for name in sorted(code)]
    return sha256(b"".join([*files, json.dumps(sorted(reached_by(code))).encode()])).hexdigest()[:12]


def reached_by(code: Sequence[str]) -> set[tuple[str, str]]:
    """The modules of the package that these files reach, each with the digest of the definitions that they reach."""
    found: set[tuple[str, str]] = set()
    for name in code:
        for node in ast.walk(ast.parse((HERE / f"{name}.py").read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                wanted = [one for one in names_wanted(node, "") if is_ours(one[0])]
                found |= {text for module, one in wanted for text in our_code(module, one).texts.items()}
    return found
