"""Approvals: the routes by which people ask for, give and take back the approval of a version.

They stand below `/v2`, not below a model: the first version of a model is approved before anything serves it.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from mlops_ray.errors import ConfigurationError, ConflictError, ForbiddenError
from mlops_ray.governance.approvals import approve, list_approvals, reject, request, revoke
from mlops_ray.governance.champion import break_glass
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.delegations import may_decide_for_others
from mlops_ray.governance.events import Actor, newest_events, plain
from mlops_ray.governance.live import Live, live
from mlops_ray.governance.principals import LOOKS, Principal, Role
from mlops_ray.governance.verdicts import Approval
from mlops_ray.governance.versions import RegisteredVersion
from mlops_ray.serving.http import HttpError, Request, Response, Route
from mlops_ray.serving.operations import Reason, RevisionNumber, VersionNumber, actor_of, read_body


class VersionBody(msgspec.Struct, forbid_unknown_fields=True):
    """digest, approval: of the sealed model, and the id of the request, that the caller looked at, to refuse another
    one. revision: of what was live when the caller looked, which breaking the glass needs, so that a second time, or
    late, it changes nothing; 0 where nothing ever was. condition: what an approver wants to be kept to."""

    model: str
    version: VersionNumber
    reason: Reason = ""
    digest: Annotated[str, Meta(max_length=64)] | None = None
    revision: RevisionNumber | None = None
    condition: Reason = ""
    approval: Annotated[str, Meta(max_length=64)] | None = None


Result = Approval | Live | RegisteredVersion


@dataclass(frozen=True)
class Decision:
    """A kind of decision about a version. events: what it is in the audit log. role: who may, on the version's use
    case; None: the use case says which role decides, or somebody gave the caller their right. stands: what holds if it
    was decided so already, None if it does not.
    """

    events: tuple[str, ...]
    role: Role | None
    change: Callable[[ControlStore, Actor, VersionBody], Result]
    stands: Callable[[ControlStore, VersionBody], Result | None]


class Approvals:
    """Of all use cases; a caller needs the role on the one that the body names."""

    def __init__(self, store: ControlStore):
        self._store = store

    def routes(self) -> Mapping[str, Mapping[str, Route]]:
        # The role depends on the use case in the body, so the routes themselves only ask who it is.
        return {
            "/approvals": {"GET": Route(self._list, None)},
            **{f"/approvals/{path}": {"POST": self._decide(decision)} for path, decision in DECISIONS.items()},
        }

    async def _list(self, request: Request) -> Response:
        """Of the use cases on which the caller operates, approves or audits, the newest first."""

        def sees(use_case: str) -> bool:
            return may_one(request.principal, LOOKS, use_case)

        found = await asyncio.to_thread(list_approvals, self._store, sees=sees)
        return Response({"approvals": [asdict(one) for one in found]})

    def _decide(self, decision: Decision) -> Route:
        async def decide(request: Request) -> Response:
            return await change_version(self._store, request, decision)

        return Route(decide, None)


async def change_version(store: ControlStore, request: Request, decision: Decision) -> Response:
    """Do what the body asks, if the caller may. A repetition, as after an answer that did not arrive, changes nothing
    and says what holds: the same caller's same decision, for the same reason, and nothing was decided since."""
    body = await read_body(request, VersionBody)
    if decision.role:
        expect_role(request.principal, (decision.role,), body.model)
    else:
        await expect_decider(store, request, body.model)
    return Response(asdict(await asyncio.to_thread(_decided, store, actor_of(request, body.model), body, decision)))


def _decided(store: ControlStore, actor: Actor, body: VersionBody, decision: Decision) -> Result:
    try:
        return decision.change(store, actor, body)
    except (ConflictError, ForbiddenError):
        last = next(iter(newest_events(store, None, body.model, _EVENTS, f"{body.model}@{body.version}", 1)), None)
        same = last is not None and (last.actor_id == actor.id if last.actor_id else last.actor == actor.name)
        if last is None or not same or last.type not in decision.events or last.reason != plain(body.reason):
            raise
        stands = decision.stands(store, body)
        if stands is None:
            raise
        return stands


async def expect_decider(store: ControlStore, request: Request, use_case: str) -> None:
    """Raise HttpError 403 unless the caller may decide on the use case, by a role or in somebody's place."""
    roles: tuple[Role, ...] = ("approve", "operate", "admin")
    if may_one(request.principal, roles, use_case):
        return
    if not await asyncio.to_thread(may_decide_for_others, store, actor_of(request, use_case), use_case):
        expect_role(request.principal, roles, use_case)


def _approval(store: ControlStore, body: VersionBody) -> Approval | None:
    newest = next((one for one in list_approvals(store, body.model) if one.version == body.version), None)
    if newest is None or newest.state == "expired":
        return None
    return newest if body.digest in (None, newest.evidence.model) and body.approval in (None, newest.id) else None


def _break_glass(store: ControlStore, actor: Actor, body: VersionBody) -> Live:
    if body.revision is None:
        raise ConfigurationError(
            "Breaking the glass is decided on a revision of what is live, and the body has none. Give it, 0 where "
            "nothing was ever live."
        )
    return break_glass(store, actor, body.model, body.version, body.reason, body.revision)


def _champion(store: ControlStore, body: VersionBody) -> Live | None:
    state = live(store, body.model)
    return state if state.champion and state.champion.version == body.version else None


def expect_role(principal: Principal | None, roles: tuple[Role, ...], use_case: str | None) -> None:
    """Raise HttpError 403 unless the caller has one of `roles` on the use case; None: on the platform."""
    if not may_one(principal, roles, use_case):
        where = "all use cases" if use_case is None else ascii(use_case[:63])
        raise HttpError(403, f"This credential does not carry the role {roles[0]!r} on {where}.", "authorization")


def may_one(principal: Principal | None, roles: tuple[Role, ...], use_case: str | None) -> bool:
    """Whether the caller has one of `roles` on the use case; None: on the platform."""
    now = datetime.now(UTC)
    return principal is not None and any(principal.may(role, use_case, now) for role in roles)


DECISIONS = {
    "request": Decision(
        ("approval.requested",), "operate",
        lambda store, actor, body: request(store, actor, body.model, body.version, body.reason), _approval,
    ),
    "approve": Decision(
        ("approval.approved", "approval.agreed"), None,
        lambda store, actor, body: approve(
            store, actor, body.model, body.version, body.reason, body.digest,
            condition=body.condition, approval=body.approval,
        ), _approval,
    ),
    "reject": Decision(
        ("approval.rejected",), None,
        lambda store, actor, body: reject(
            store, actor, body.model, body.version, body.reason, seen=body.digest, approval=body.approval
        ), _approval,
    ),
    "revoke": Decision(
        ("approval.revoked",), None,
        lambda store, actor, body: revoke(
            store, actor, body.model, body.version, body.reason, seen=body.digest, approval=body.approval
        ), _approval,
    ),
    "break-glass": Decision(
        ("break_glass",), "operate", _break_glass, _champion,
    ),
}  # fmt: skip
RETIRED = "version.retired"
_EVENTS = (*(event for decision in DECISIONS.values() for event in decision.events), RETIRED)
