"""Readings: the routes by which people and their assistants read how a use case stands; none of them changes anything.

No value of a personal column is in an answer, whoever asks: what is said of columns are counts, except of those that
the use case declares as nobody's.
"""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.governance.alarms import AlarmRecord, alarms_of
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.principals import LOOKS
from mlops_ray.governance.versions import RegisteredVersion, expect_name, list_versions
from mlops_ray.serving.approvals import expect_role
from mlops_ray.serving.http import Request, Response, Route
from mlops_ray.serving.operations import read_query


class ReadingQuery(msgspec.Struct, forbid_unknown_fields=True):
    use_case: Annotated[str, Meta(max_length=200)]


class Readings:
    """A caller operates, approves or audits the use case that the query names."""

    def __init__(self, settings: Settings, store: ControlStore):
        self._store, self._artifacts = store, Artifacts(settings.artifacts)

    def routes(self) -> Mapping[str, Mapping[str, Route]]:
        made = {"versions": self._versions, "alarms": self._alarms, "drift": self._drift, "data/profile": self._profile}
        return {f"/{path}": {"GET": self._route(answer)} for path, answer in made.items()}

    def _route(self, answer: Any) -> Route:
        async def read(request: Request) -> Response:
            use_case = read_query(request, ReadingQuery).use_case
            expect_role(request.principal, LOOKS, use_case)
            expect_name(use_case)  # it becomes part of a path
            return Response(await asyncio.to_thread(answer, use_case))

        return Route(read, None)

    def _versions(self, use_case: str) -> dict[str, Any]:
        return {"versions": [_version(one) for one in reversed(list_versions(self._store, use_case))]}

    def _alarms(self, use_case: str) -> dict[str, Any]:
        now = datetime.now(UTC)
        return {"alarms": [_alarm(one, now) for one in alarms_of(self._store, use_case)]}

    def _drift(self, use_case: str) -> dict[str, Any]:
        # Imported where it is needed: it takes SciPy, and few ever ask.
        from mlops_ray.monitoring.describe import describe
        from mlops_ray.monitoring.watch_state import read_state

        state, known = read_state(self._artifacts, use_case), alarms_of(self._store, use_case)
        return {"lines": list(describe(state, known, datetime.now(UTC)))}

    def _profile(self, use_case: str) -> dict[str, Any]:
        from mlops_ray.catalogue.profiles import newest_profile

        return newest_profile(self._artifacts, use_case)


def _version(one: RegisteredVersion) -> dict[str, Any]:
    """Without who the author is: the name is enough."""
    return {
        "version": one.version,
        "author": one.author,
        "registered_at": one.registered_at.isoformat(),
        "failed_gates": list(one.failed_gates),
        "retired_at": one.retired_at and one.retired_at.isoformat(),
        "model": one.evidence.model,
    }


def _alarm(one: AlarmRecord, now: datetime) -> dict[str, Any]:
    state = "resolved" if one.resolved_at else "open" if one.is_open(now) else "silenced"
    return {
        "id": one.id,
        "version": one.version,
        "severity": one.severity,
        "state": state,
        "title": one.title,
        "since": one.since.isoformat(),
        "silenced_because": one.silenced_because,
    }
