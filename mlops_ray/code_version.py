"""Which code is running, for people: the commit of the use case, the framework's version, what is installed."""

import hashlib
import os
import platform
import subprocess
from dataclasses import dataclass
from functools import cache
from importlib.metadata import distributions, version
from pathlib import Path

COMMIT, DIRTY = "MLOPS_RAY_COMMIT", "MLOPS_RAY_DIRTY"
_PACKAGE = Path(__file__).parent


@dataclass(frozen=True)
class CodeVersion:
    """The commit, and whether the working tree differed from it. "unknown" where there is neither git nor a hint."""

    commit: str
    dirty: bool

    def __str__(self) -> str:
        return f"{self.commit}{'+dirty' if self.dirty else ''}"

    def to_environment(self) -> dict[str, str]:
        """Variables that carry the version to where `.git` is not, such as a submitted job."""
        return {COMMIT: self.commit, DIRTY: "1" if self.dirty else "0"}


def code_version(folder: Path | str = ".") -> CodeVersion:
    """Of the repository in which `folder` lies, which should be that of the use case's file.

    The environment counts first: a submitted job runs where there is no `.git`, and its runtime environment says.
    """
    if commit := os.environ.get(COMMIT):
        return CodeVersion(commit, os.environ.get(DIRTY) != "0")
    return _of_git(_existing(Path(folder))) or CodeVersion("unknown", True)


@cache
def framework_version() -> str:
    """The version of mlops_ray, and of a checkout the commit, such as "0.1.0" or "0.1.0 (1a2b3c…+dirty)".

    A virtual environment inside of a user's repository is no checkout of ours: git has to know the package's files.
    """
    released = version(_PACKAGE.name)
    try:
        _git(_PACKAGE, "ls-files", "--error-unmatch", "__init__.py")
    except (OSError, subprocess.CalledProcessError):
        return released
    return f"{released} ({_of_git(_PACKAGE)})"


@cache
def environment_digest() -> str:
    """SHA-256 of Python's version and the versions of all that is installed."""
    installed = {f"{found.name}=={found.version}" for found in distributions()}
    lines = [platform.python_version(), *sorted(installed)]
    return hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()


def lock_digest() -> str:
    """SHA-256 of `requirements.lock` beside the package; where there is none, of what is installed as such a file."""
    file = _PACKAGE.parent / "requirements.lock"
    if file.is_file():
        return hashlib.sha256(file.read_bytes()).hexdigest()
    installed = {f"{found.name}=={found.version}" for found in distributions()}
    return hashlib.sha256("".join(f"{line}\n" for line in sorted(installed)).encode()).hexdigest()


def _of_git(folder: Path) -> CodeVersion | None:
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return CodeVersion(commit, bool(_git(folder, "status", "--porcelain")))
    except (OSError, subprocess.CalledProcessError):
        return None


def _existing(folder: Path) -> Path:
    """The folder, or what there is of the way to it: one for Feast's definitions need not exist."""
    folder = folder.absolute()
    return next(found for found in (folder, *folder.parents) if found.is_dir())


def _git(folder: Path, *arguments: str) -> str:
    run = subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return run.stdout.strip()
