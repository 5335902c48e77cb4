"""Update: what a newer release would write comes into a project, beside what somebody has changed there.

A three-way merge of each file, as copier does it: between what was written, what there is, and what would be written
now. Where both have changed the same lines, both are left, between marks.
"""

import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jinja2 import TemplateError
from packaging.version import InvalidVersion, Version

from mlops_ray.errors import ConfigurationError, UseCaseError
from mlops_ray.scaffold.record import RECORD, Record, read_record
from mlops_ray.use_case.checks import expect_name

Outcome = Literal["new", "changed", "merged", "conflict", "left"]
_MARK = "<<<<<<< yours"


@dataclass(frozen=True)
class Updated:
    """One file. why: of one that was left as it is."""

    file: str
    outcome: Outcome
    why: str = ""


@dataclass(frozen=True)
class _Change:
    updated: Updated
    content: bytes = b""


def update_project(folder: Path) -> tuple[str, str, tuple[Updated, ...]]:
    """Bring a project to this release: the release before, this one, and each file that it concerns.

    Nothing is written if it raises, and the record last, so that one that was killed is done again. Raises
    ConfigurationError if the folder has no record, was written by a newer release, or has conflicts of an update
    before.
    """
    before = read_record(folder)
    try:
        expect_name(str(before.answers["draft"]["name"]))  # it becomes part of paths
        now = Record.of(before.answers)
        is_older = Version(before.release) > Version(now.release)
    except (TemplateError, UseCaseError, InvalidVersion, KeyError, TypeError, AttributeError) as error:
        raise ConfigurationError(f"{RECORD} is not what `mlops-ray init` wrote: {error}. Take it back.") from None
    if is_older:
        raise ConfigurationError(
            f"The project was written by mlops_ray {before.release}, and this is {now.release}. Install that, or newer."
        )
    changes = [_change(folder, name, before, now) for name in sorted({*before.files, *now.files})]
    found = [change for change in changes if change is not None]
    for change in found:
        if change.updated.outcome != "left":
            _write(folder / change.updated.file, change.content)
    if now != before:
        _write(folder / RECORD, now.text().encode())
    return before.release, now.release, tuple(change.updated for change in found)


def _change(folder: Path, name: str, before: Record, now: Record) -> _Change | None:
    """None for a file that the releases write alike."""
    was, wanted, file = before.files.get(name), now.files.get(name), folder / name
    if was == wanted:
        return None
    if wanted is None:
        return _left(name, "this release does not write it any more; delete it if you do not need it")
    if not _is_inside(folder, file):
        return _left(name, "it is a link or no file, or lies outside of the project")
    if not file.exists():
        return _Change(Updated(name, "new"), wanted.encode()) if was is None else _left(name, "you have deleted it")
    if was is None:
        return _left(name, "it is yours; this release would write one of this name, too")
    return _merged(name, file.read_bytes(), was, wanted)


def _left(name: str, why: str) -> _Change:
    return _Change(Updated(name, "left", why))


def _is_inside(folder: Path, file: Path) -> bool:
    regular = not file.is_symlink() and (file.is_file() or not file.exists())
    return regular and file.parent.resolve().is_relative_to(folder.resolve())


def _merged(name: str, there: bytes, was: str, wanted: str) -> _Change:
    ours = there.replace(b"\r\n", b"\n")
    if _MARK.encode() in ours:
        raise ConfigurationError(f"{name} still has the conflicts of an update before ({_MARK} …). Resolve them first.")
    if ours == wanted.encode():
        return _left(name, "it is so already")
    outcome: Outcome = "changed"
    content = wanted.encode()
    if ours != was.encode():
        conflicts, content = _merge_file(ours, was.encode(), content)
        outcome = "conflict" if conflicts else "merged"
    return _Change(Updated(name, outcome), content.replace(b"\n", b"\r\n") if b"\r\n" in there else content)


def _merge_file(ours: bytes, was: bytes, wanted: bytes) -> tuple[bool, bytes]:
    """Whether both have changed the same lines, and the result."""
    with tempfile.TemporaryDirectory() as scratch:
        files = []
        for name, content in (("yours", ours), ("before", was), ("new", wanted)):
            (Path(scratch) / name).write_bytes(content)
            files.append(name)
        labels = ["-L", "yours", "-L", "before", "-L", "mlops_ray"]
        command = ["git", "merge-file", "-p", "--diff3", *labels, *files]
        try:
            done = subprocess.run(command, cwd=scratch, capture_output=True, check=False)
        except FileNotFoundError:
            raise ConfigurationError("Changes are merged by git, which is not installed. Install it.") from None
    if done.returncode < 0 or done.returncode > 127:  # it counts conflicts, up to 127
        raise ConfigurationError(f"git could not merge: {done.stderr.decode(errors='replace').strip()}.")
    return done.returncode > 0, done.stdout


def _write(file: Path, content: bytes) -> None:
    """Whole or not at all, with the rights that the file has."""
    file.parent.mkdir(parents=True, exist_ok=True)
    mode = file.stat().st_mode & 0o777 if file.exists() else None
    handle, partial = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    try:
        with os.fdopen(handle, "wb") as opened:
            opened.write(content)
        os.chmod(partial, mode if mode is not None else 0o644)
        os.replace(partial, file)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
