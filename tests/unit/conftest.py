"""A control store for a test of its own: migrated once, then copied."""

import os
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from mlops_ray.governance.control_store import ControlStore

# Without torch, whose CPU build need not be there for every Python, what it fits is left out.
_HAS_TORCH = find_spec("torch") is not None
collect_ignore = [] if _HAS_TORCH else ["test_fit_blocks.py", "test_network_workers.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not _HAS_TORCH and item.get_closest_marker("torch"):
            item.add_marker(pytest.mark.skip(reason="torch is not installed"))


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
