"""Which code is running: the commit for people, digests of source files for reuse of results."""

import hashlib
import os
import subprocess
from dataclasses import dataclass
from functools import cache
from importlib.metadata import distributions, version
from pathlib import Path

COMMIT, DIRTY = "MLOPS_RAY_COMMIT", "MLOPS_RAY_DIRTY"
_PACKAGE = Path(__file__).parent
_LIBRARIES = ("polars", "pyarrow", "feast", "ray", "scikit-learn", "torch", "onnx", "skl2onnx", "mlflow")


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


def code_version() -> CodeVersion:
    """From the environment if it says so, else from git."""
    if commit := os.environ.get(COMMIT):
        return CodeVersion(commit, os.environ.get(DIRTY) != "0")
    try:
        commit = _git("rev-parse", "HEAD")
        return CodeVersion(commit, bool(_git("status", "--porcelain")))
    except (OSError, subprocess.CalledProcessError):
        return CodeVersion("unknown", True)


def lock_digest() -> str:
    """SHA-256 of `requirements.lock` beside the package; where there is none, of what is installed as such a file."""
    file = _PACKAGE.parent / "requirements.lock"
    if file.is_file():
        return hashlib.sha256(file.read_bytes()).hexdigest()
    installed = {f"{found.name}=={found.version}" for found in distributions()}
    return hashlib.sha256("".join(f"{line}\n" for line in sorted(installed)).encode()).hexdigest()


def _git(*arguments: str) -> str:
    run = subprocess.run(["git", *arguments], cwd=_PACKAGE, check=True, capture_output=True, text=True)
    return run.stdout.strip()


@cache
def code_digest(*parts: str) -> str:
    """SHA-256 over the package's files and folders named, and the versions of the libraries that compute results."""
    digest = hashlib.sha256()
    for part in parts:
        path = _PACKAGE / part
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(str(file.relative_to(_PACKAGE)).encode() + b"\0" + file.read_bytes())
    for library in _LIBRARIES:
        digest.update(f"{library}=={version(library)}".encode())
    return digest.hexdigest()
