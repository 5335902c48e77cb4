"""Feast definitions: what one feature service uses, as text, and the digest by which keys and lineage know it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mlops_ray.artifacts import digest_json
from mlops_ray.errors import UseCaseError


@dataclass(frozen=True)
class Definitions:
    """The definitions that `service` uses. files: texts by name below the feature repository."""

    service: str
    files: Mapping[str, str]
    digest: str


def read_definitions(feature_repo: Path, service: str | None) -> Definitions | None:
    """What the service needs of the repository; None where a use case has no service.

    Raises UseCaseError if the folder holds no definitions.
    """
    if service is None:
        return None
    files = {file.name: file.read_text() for file in sorted(feature_repo.glob("*.py"))}
    if not files:
        raise UseCaseError(
            f"Feature service {service!r} is wanted, but {feature_repo} holds no definitions. "
            f"Give the folder with --feature-repo."
        )
    return Definitions(service, files, digest_json(files))
