"""What the project around the use cases has: tests, pinned versions, no secrets."""

import re
from collections.abc import Iterator

from mlops_ray.standards.rule import Project
from mlops_ray.use_case import UseCase

_LOCKS = ("requirements.lock", "uv.lock", "poetry.lock", "pdm.lock", "pylock.toml", "Pipfile.lock", "conda-lock.yml")
_LARGEST_BYTES = 1 << 20
_KEYS = re.compile(
    r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----"
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"
    r"|\bgh[pousr]_[0-9A-Za-z]{36}"
    r"|\bgithub_pat_[0-9A-Za-z_]{60}"
    r"|\bglpat-[0-9A-Za-z_-]{20}"
    r"|\bxox[abprs]-[0-9A-Za-z-]{10}"
)
# A password in a URL or after a name such as `api_key`; where it comes from a variable, it is none.
_IN_URL = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s/:@'\"]*:(?P<value>[^\s/@'\"]{4,})@")
_NAMED = re.compile(
    r"(?i)\b[\w-]*(?:password|passwd|secret|api_?key|access_?key|auth_?token)['\"]?\s*[:=]\s*(?P<quote>['\"])"
    r"(?P<value>[^'\"\s]{8,})(?P=quote)"
)
# What examples and tests write, and how a line says that what looks like a secret is none (of detect-secrets).
_NONE = {"password", "passwd", "secret", "changeme", "example"}
_ALLOWED = "pragma: allowlist secret"
_FROM_ELSEWHERE = re.compile(r"^(?:env:|file:|/|\$|<|%)|[{}$<>…]")


def tests(case: UseCase, project: Project) -> Iterator[str]:
    """The project has a test that names the use case."""
    word = re.compile(rf"(?<![A-Za-z0-9]){re.escape(case.name)}(?![A-Za-z0-9])")
    files = [file for file in project.files if file.name.startswith("test_") and file.suffix == ".py"]
    if not any(word.search(file.read_text(errors="replace")) for file in files):
        yield f"no test names it. Write tests/test_{case.name}.py."


def lock_file(project: Project) -> Iterator[str]:
    """The versions of all packages are pinned in a file."""
    if not any(file.name in _LOCKS and file.parent == project.folder for file in project.files):
        yield "no file pins the versions of packages. Write one, such as `pip freeze > requirements.lock`."


def no_secrets(project: Project) -> Iterator[str]:
    """No key, token or password stands in a file."""
    for file in project.files:
        if file.stat().st_size > _LARGEST_BYTES or b"\0" in (content := file.read_bytes()):
            continue
        for number, line in enumerate(content.decode(errors="replace").splitlines(), 1):
            if _is_secret(line):
                yield (
                    f"{file.relative_to(project.folder)}:{number} seems to have a key or password. Take it out, change "
                    f"it where it is valid, and read it from the environment (env:NAME). If it is none, say so "
                    f"behind it: # {_ALLOWED}."
                )


def _is_secret(line: str) -> bool:
    if _ALLOWED in line:
        return False
    if _KEYS.search(line):
        return True
    values = [match["value"] for match in (*_IN_URL.finditer(line), *_NAMED.finditer(line))]
    return any(value.lower() not in _NONE and not _FROM_ELSEWHERE.search(value) for value in values)
