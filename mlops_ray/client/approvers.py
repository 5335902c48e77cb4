"""Approvers: changes of rules, who may approve in whose place, and reports that were attached to an approval."""

import base64
from collections.abc import Awaitable
from datetime import datetime
from typing import Any, Protocol, TypeVar

from mlops_ray.client.exchange import Call
from mlops_ray.client.steps import Steps, only

Found = dict[str, Any]
T = TypeVar("T")


class _Do(Protocol):
    def __call__(self, steps: Steps[T]) -> T: ...


class _DoLater(Protocol):
    def __call__(self, steps: Steps[T]) -> Awaitable[T]: ...


class Approvers:
    """`Client.approvers`. Who does it is whose key the client has; all methods raise what `Client.decide` raises."""

    def __init__(self, do: _Do):
        self._do = do

    def rules(self) -> list[Found]:
        """Changes of policies, gates and monitoring that were asked for, and what became of them, the newest first."""
        return self._do(_listed("rules", "changes"))

    def approve_rules(self, id: str, reason: str = "") -> Found:
        """Agree to a change; somebody other than who asked for it has to."""
        return self._do(_posted("rules/approve", id=id, reason=reason))

    def reject_rules(self, id: str, reason: str) -> Found:
        """Refuse a change, or take it back."""
        return self._do(_posted("rules/reject", id=id, reason=reason))

    def delegations(self) -> list[Found]:
        """Who may approve in whose place, the newest first; those that ended as well."""
        return self._do(_listed("delegations", "delegations"))

    def delegate(self, name: str, to: str, until: datetime, reason: str) -> Found:
        """Let somebody decide on versions of a use case in your place. to: a key of theirs, or `issuer|sub`."""
        return self._do(_posted("delegations", model=name, to=to, until=until.isoformat(), reason=reason))

    def end_delegation(self, id: str, reason: str) -> Found:
        """Take the right back; what was approved with it stays."""
        return self._do(_posted("delegations/end", id=id, reason=reason))

    def attach_report(self, name: str, version: int, file_name: str, content: bytes) -> Found:
        """Attach a file, such as a validator's, to the newest request for a version's approval, which is returned."""
        return self._do(_attached(name, version, file_name, content))

    def report(self, name: str, version: int, digest: str) -> bytes:
        """A report as it was attached. Raises IntegrityError if it is another now."""
        return self._do(_read(name, version, digest))


class AsyncApprovers:
    """`AsyncClient.approvers`: the methods of `Approvers` as coroutines."""

    def __init__(self, do: _DoLater):
        self._do = do

    async def rules(self) -> list[Found]:
        """See `Approvers.rules`."""
        return await self._do(_listed("rules", "changes"))

    async def approve_rules(self, id: str, reason: str = "") -> Found:
        """See `Approvers.approve_rules`."""
        return await self._do(_posted("rules/approve", id=id, reason=reason))

    async def reject_rules(self, id: str, reason: str) -> Found:
        """See `Approvers.reject_rules`."""
        return await self._do(_posted("rules/reject", id=id, reason=reason))

    async def delegations(self) -> list[Found]:
        """See `Approvers.delegations`."""
        return await self._do(_listed("delegations", "delegations"))

    async def delegate(self, name: str, to: str, until: datetime, reason: str) -> Found:
        """See `Approvers.delegate`."""
        return await self._do(_posted("delegations", model=name, to=to, until=until.isoformat(), reason=reason))

    async def end_delegation(self, id: str, reason: str) -> Found:
        """See `Approvers.end_delegation`."""
        return await self._do(_posted("delegations/end", id=id, reason=reason))

    async def attach_report(self, name: str, version: int, file_name: str, content: bytes) -> Found:
        """See `Approvers.attach_report`."""
        return await self._do(_attached(name, version, file_name, content))

    async def report(self, name: str, version: int, digest: str) -> bytes:
        """See `Approvers.report`."""
        return await self._do(_read(name, version, digest))


def _listed(path: str, what: str) -> Steps[list[Found]]:
    return list((yield Call(f"/v2/approvals/{path}", method="GET"))[what])


def _posted(path: str, **body: Any) -> Steps[Found]:
    return only(Call(f"/v2/approvals/{path}", body))


def _attached(name: str, version: int, file_name: str, content: bytes) -> Steps[Found]:
    text = base64.b64encode(content).decode()
    return _posted("reports", model=name, version=version, name=file_name, content=text)


def _read(name: str, version: int, digest: str) -> Steps[bytes]:
    found = yield Call("/v2/approvals/reports/read", {"model": name, "version": version, "digest": digest})
    return base64.b64decode(found["content"])
