"""Runs: the project's tests and pipeline, and those of the revision that a change is compared with, as processes."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlops_ray.errors import ConfigurationError

_NOTHING_COLLECTED = 5  # pytest's exit code
_SHOWN_LINES = 12
_COMMAND = "from mlops_ray.cli.main import main; main()"


@dataclass(frozen=True)
class Ran:
    """What became of a process. last: the end of what it said, as lines."""

    ok: bool
    last: tuple[str, ...]


def run_tests(folder: Path) -> Ran | None:
    """The project's own tests; None where it has none."""
    if not (folder / "tests").is_dir():
        return None
    done = _run([sys.executable, "-m", "pytest", "-q", "tests"], folder)
    return None if done.returncode == _NOTHING_COLLECTED else _ran(done)


def run_pipeline(folder: Path, use_case: str, state: Path, data: str) -> tuple[Ran, Mapping[str, Any]]:
    """`mlops-ray run` in `folder`, with its state in `state`; the summary that it wrote, empty if it did not get there.

    The settings file of the project is not read: what it names may be where people work.
    """
    summary, empty = state / "summary.json", state / "no_settings.yaml"
    summary.unlink(missing_ok=True)
    state.mkdir(parents=True, exist_ok=True)
    empty.write_text("{}\n")
    places = ["--config", str(empty), "--state", str(state), "--data", data]
    ran = _ran(_run([sys.executable, "-c", _COMMAND, "run", f"use_cases/{use_case}.py", *places], folder))
    return ran, json.loads(summary.read_text()) if ran.ok else {}


@contextmanager
def checked_out(folder: Path, revision: str) -> Iterator[Path]:
    """The project as of a revision of its repository, in a folder that is gone afterwards.

    Raises ConfigurationError if there is no such revision, or the folder is in no repository.
    """
    if revision.startswith("-"):
        raise ConfigurationError(f"--base {ascii(revision)[:60]} is no revision.")
    inside = _git(folder, revision, "rev-parse", "--show-prefix").strip()
    with tempfile.TemporaryDirectory(prefix="mlops-ray-base-") as scratch:
        tree = Path(scratch, "tree")
        _git(folder, revision, "worktree", "add", "--detach", "--quiet", str(tree), revision)
        try:
            yield tree / inside
        finally:
            _git(folder, revision, "worktree", "remove", "--force", str(tree))


def _git(folder: Path, revision: str, *arguments: str) -> str:
    done = _run(["git", *arguments], folder)
    if done.returncode:
        last = (done.stderr.strip() or "no output").splitlines()[-1]
        raise ConfigurationError(
            f"--base {ascii(revision)[:60]} cannot be looked at: {last} Fetch it (CI: a checkout with all history)."
        )
    return done.stdout


def _run(command: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "MLOPS_RAY_SETTINGS"}
    environment["NO_COLOR"] = "1"
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def _ran(done: subprocess.CompletedProcess[str]) -> Ran:
    said = done.stdout if done.returncode == 0 or not done.stderr.strip() else done.stderr
    return Ran(done.returncode == 0, tuple(line for line in said.splitlines() if line.strip())[-_SHOWN_LINES:])
