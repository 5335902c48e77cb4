"""Feast definitions: what one feature service uses, by value, and the names under which others know it.

They are read in a process of their own, so that modules of a feature repository find one another as under `feast
apply`, whatever else this process has imported, and nothing of them stays here.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, Self

from mlops_ray.artifacts import Artifacts, digest_json
from mlops_ray.errors import IntegrityError, UseCaseError

_TIMEOUT_S = 120


@dataclass(frozen=True)
class View:
    """A feature view as its service uses it.

    keys: the columns of its rows that say what a row is about, and `asked`: for each the entity of the use case that is
    compared with it. features: those that the service takes; `fields`: all of them. types: Feast's type of each key and
    field. columns: where a field has another name in the rows. created: the column with the moment a row was written.
    """

    name: str
    keys: tuple[str, ...]
    asked: tuple[str, ...]
    features: tuple[str, ...]
    fields: tuple[str, ...]
    types: Mapping[str, str]
    ttl_s: float
    columns: Mapping[str, str]
    created: str | None = None

    @property
    def ttl(self) -> timedelta:
        return timedelta(seconds=self.ttl_s)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        lists = {name: tuple(value[name]) for name in ("keys", "asked", "features", "fields")}
        # The order of the rows' columns, which must not depend on whether the definitions were kept meanwhile.
        types = {name: value["types"][name] for name in (*lists["keys"], *lists["fields"])}
        return cls(**{**value, **lists, "types": types})


@dataclass(frozen=True)
class Definitions:
    """What `service` uses, and nothing else of the repository.

    digest: of Feast's own specs of the service, its views and their entities, without paths and times; two repositories
    that define the same have the same. specs: those, as JSON of Feast's protobuf messages. files: the texts of the
    modules that they come from, by name below the repository.
    """

    service: str
    digest: str
    views: tuple[View, ...]
    specs: Mapping[str, Any]
    files: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return found

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(**{**value, "views": tuple(View.from_json(view) for view in value["views"])})


@dataclass(frozen=True)
class DeclaredView:
    """A view of a use case, for which a definition is made where the repository has none. A function says nothing of
    its columns: then all but `name` is empty, and the repository must have it.

    keys, features: Feast's type of each column. ttl_s: how long its values stay true.
    """

    name: str
    keys: Mapping[str, str] = field(default_factory=dict)
    features: Mapping[str, str] = field(default_factory=dict)
    ttl_s: float = 0.0

    @property
    def is_complete(self) -> bool:
        return bool(self.features)


class RowsOfView(Protocol):
    """What a project's name needs of feature rows: see `transform.FeatureRows`."""

    @property
    def view(self) -> str: ...
    @property
    def code(self) -> str: ...


def project_of(definitions: Definitions, rows: Iterable[RowsOfView]) -> str:
    """The Feast project in which a model finds its features, such as `flights_1a2b3c4d5e6f`.

    It is named by the definitions and by the code that computes the rows, so that a change of either leaves alone what
    versions before it read. Models with the same of both share one.
    """
    used = {view.name for view in definitions.views}
    code = {found.view: found.code for found in rows if found.view in used}
    # Short, because PostgreSQL cuts the names of tables (project, view and more) at 63 bytes.
    return f"{definitions.service[:16]}_{digest_json([definitions.service, definitions.digest, code])[:12]}"


def read_definitions(
    feature_repo: Path,
    service: str | None,
    kept: Artifacts | None = None,
    declared: Sequence[DeclaredView] = (),
) -> Definitions | None:
    """What the service uses of the repository; None where a use case has no service.

    declared: the views of the use case in their order, see `declared_views`. A service that the repository does not
    define has all of them; a view that it does not define is made of its declaration. What it does define stands.
    kept: where what was read is remembered by the content of the repository, since reading imports Feast (5 s).
    Raises UseCaseError if the service is not defined, a module that it needs does not import, two views of one name
    differ, or a view has what no model can take.
    """
    if service is None:
        return None
    feature_repo = feature_repo.resolve()
    files = _files(feature_repo)
    if not any(name.endswith(".py") for name in files) and not _are_enough(declared):
        raise UseCaseError(
            f"Feature service {service!r} is wanted, but {feature_repo} holds no definitions. "
            f"Give the folder with --feature-repo."
        )
    given = [asdict(view) for view in declared]
    key = digest_json([service, files, version("feast"), sys.version_info[:2], *([given] if given else [])])
    record = ("definitions", f"{key}.json")
    found = kept.read_json(*record) if kept else None
    if found is None or any(_sha256(Path(name)) != digest for name, digest in found["outside"].items()):
        found = _read(feature_repo, service, given)
        if kept:
            kept.write_json(found, *record)
    return Definitions.from_json(found["definitions"])


def keep_definitions(artifacts: Artifacts, project: str, definitions: Definitions) -> None:
    """Remember what a project was made from, so that its values can be refreshed when the repository has moved on."""
    artifacts.write_json(definitions.to_json(), "definitions", f"{project}.json")


def load_definitions(artifacts: Artifacts, project: str) -> Definitions | None:
    """The definitions of a project; None if they were never kept here."""
    found = artifacts.read_json("definitions", f"{project}.json")
    return Definitions.from_json(found) if found else None


def expect_definitions(artifacts: Artifacts, project: str) -> Definitions:
    """As `load_definitions`. Raises IntegrityError if they were never kept here."""
    found = load_definitions(artifacts, project)
    if found is None:
        raise IntegrityError(f"The definitions of feature project {project} are not below {artifacts.root}.")
    return found


def _are_enough(declared: Sequence[DeclaredView]) -> bool:
    return bool(declared) and all(view.is_complete for view in declared)


def _files(feature_repo: Path) -> dict[str, str]:
    """The SHA-256 of every file below the folder that is neither hidden nor Python's own."""
    found = {}
    for folder, folders, names in os.walk(feature_repo):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__pycache__")
        for name in sorted(names):
            path = Path(folder, name)
            if not name.startswith("."):
                found[str(path.relative_to(feature_repo))] = _sha256(path)
    return found


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""


def _read(feature_repo: Path, service: str, declared: Sequence[Mapping[str, Any]]) -> Any:
    with tempfile.TemporaryDirectory(prefix="mlops-ray-definitions-") as folder:
        answer = Path(folder, "answer.json")
        command = [sys.executable, "-P", "-m", "mlops_ray.features.definitions_reader"]
        try:
            done = subprocess.run(
                [*command, str(feature_repo), service, str(answer), json.dumps(declared)],
                cwd=feature_repo if feature_repo.is_dir() else folder,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))},
                capture_output=True,
                text=True,
                timeout=_TIMEOUT_S,
            )
        except subprocess.TimeoutExpired:
            raise UseCaseError(
                f"The feature definitions in {feature_repo} did not import within {_TIMEOUT_S} s. "
                f"Let them define, and do no work."
            ) from None
        if not answer.is_file():
            last = (done.stderr.strip() or "no output").splitlines()[-1]
            raise UseCaseError(f"The feature definitions in {feature_repo} ended Python ({done.returncode}): {last}")
        found = json.loads(answer.read_text())
    if "error" in found:
        raise UseCaseError(found["error"])
    return found
