"""Preflight: would every version that may have to answer still load, and answer the same, in this environment?"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mlops_ray.config import Settings
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.history import use_cases
from mlops_ray.governance.live import Live, VersionRef, live
from mlops_ray.registry.models import download_sealed
from mlops_ray.registry.sealed_model import load
from mlops_ray.registry.served_packages import other_packages
from mlops_ray.serving.golden import replay_golden_requests

Part = Literal["champion", "rollout", "previous"]


@dataclass(frozen=True)
class Checked:
    """What became of one version. problem: why it does not load or answers otherwise; None if all is as when it was
    sealed. golden_requests: how many were replayed; versions sealed before there were any have golden rows alone.
    packages: what runs here otherwise than where it was sealed."""

    use_case: str
    version: VersionRef
    part: Part
    golden_requests: int
    problem: str | None
    packages: tuple[str, ...] = ()


def preflight(store: ControlStore, settings: Settings, use_case: str | None = None) -> list[Checked]:
    """Load each champion, each version in a rollout and each that a rollback returns to, and replay what it was sealed
    with: golden rows, and golden requests on the whole way from JSON to the answer.

    use_case: only its versions. Run it where the new libraries are installed, before replicas get them. A version whose
    files nobody has any more would not load either.
    """
    names = use_cases(store) if use_case is None else [use_case]
    return [_checked(settings, name, part, version) for name in names for part, version in _versions(live(store, name))]


def _versions(state: Live) -> Iterator[tuple[Part, VersionRef]]:
    """Each version once, by its most important part."""
    given: dict[Part, VersionRef | None] = {
        "champion": state.champion,
        "rollout": state.rollout.version if state.rollout else None,
        "previous": state.previous,
    }
    seen = set()
    for part, version in given.items():
        if version is not None and version not in seen:
            seen.add(version)
            yield part, version


def _checked(settings: Settings, name: str, part: Part, version: VersionRef) -> Checked:
    with tempfile.TemporaryDirectory(prefix="mlops-ray-preflight-") as folder:
        try:
            files = download_sealed(settings, name, version, Path(folder))
            sealed, packages = load(files, version.digest), other_packages(files)
            replay_golden_requests(sealed)
        except Exception as error:  # whatever a changed library raises would keep the version from loading
            return Checked(name, version, part, 0, f"{type(error).__name__}: {error}")
    return Checked(name, version, part, len(sealed.golden_requests), None, packages)
