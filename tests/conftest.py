"""Settings of all tests, and which of them share a process: those that start Ray, as a machine has one; each file of
the others."""

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

settings.register_profile("shared_machine", deadline=None)
settings.load_profile("shared_machine")

# Ray's workers are nice 15 by default, and hardly run beside the tests of another process.
os.environ |= {"RAY_worker_niceness": "0"}

WITHOUT_RAY = {
    "advisories", "approval_machine", "audit", "audit_roles", "backup", "candidates", "console", "control_store",
    "docs_site", "events", "feast_sdk", "first_use", "freshness", "governance", "many_replicas", "materialize_killed",
    "models", "network_together", "object_store_files", "online_history", "online_store", "online_store_down",
    "openapi", "openapi_of_server", "rollout_machine", "scheduler_killed", "sealing", "sealing_large",
    "serve_configs", "table_sources", "tracking", "upgrade", "version_import",
}  # fmt: skip


class _OneRay(LoadScopeScheduling):
    """What starts Ray in one process, after one another; each file of the others wherever there is room."""

    def _split_scope(self, nodeid: str) -> str:
        file = Path(nodeid.partition("::")[0])
        needs_none = "unit" in file.parts or file.stem.removeprefix("test_") in WITHOUT_RAY
        return str(file) if needs_none else "ray"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _OneRay:
    return _OneRay(config, log)
