"""The model registry, as those ask it who serve versions or watch what they answer."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mlops_ray.config import Settings
from mlops_ray.governance.versions import VersionRef
from mlops_ray.registry.models import download_sealed, find_version, set_champion


class Registry(Protocol):
    """What a replica needs of it. Each may raise UnavailableError."""

    def find(self, name: str, version: int) -> VersionRef:
        """The digest under which a version was registered. Raises ConfigurationError if it was not."""
        ...

    def fetch(self, name: str, version: VersionRef, folder: Path) -> Path:
        """Copy the sealed model of a version into `folder` and return where it lies."""
        ...

    def show_champion(self, name: str, version: int) -> None:
        """Let those who look there see which version the control store calls champion."""
        ...


@dataclass(frozen=True)
class MlflowRegistry:
    """MLflow's, which `settings` name."""

    settings: Settings

    def find(self, name: str, version: int) -> VersionRef:
        return VersionRef(version, find_version(self.settings, name, version).digest)

    def fetch(self, name: str, version: VersionRef, folder: Path) -> Path:
        return download_sealed(self.settings, name, version, folder)

    def show_champion(self, name: str, version: int) -> None:
        set_champion(self.settings, name, version)
