"""A control store for a test of its own: migrated once, then copied."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlops_ray.governance.control_store import ControlStore


@pytest.fixture(autouse=True)
def _umask() -> Iterator[None]:
    """What a test starts in this process, as an endpoint, closes files for all that comes after it there."""
    before = os.umask(0o022)
    os.umask(before)
    yield
    os.umask(before)


@pytest.fixture(scope="session")
def _migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("control_store") / "control_store.db"
    store = ControlStore(f"sqlite:///{file}")
    store.migrate()
    store.close()
    return file


@pytest.fixture
def store(_migrated: Path, tmp_path: Path) -> Iterator[ControlStore]:
    store = ControlStore(f"sqlite:///{shutil.copy(_migrated, tmp_path)}", wait_s=2)
    yield store
    store.close()
