"""Rules: changes of policies, gates and monitoring that wait for somebody's approval, beside what holds."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from mlops_ray.console.duties import Duty, of_change
from mlops_ray.console.page import Refused, Viewer, in_thread, page
from mlops_ray.console.server import Answer, Server
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.monitoring_definitions import MonitoringRevision, newest_definitions
from mlops_ray.governance.policies import InForce, Policy, all_in_force
from mlops_ray.governance.policy_changes import PolicyChange, list_changes

PATH = "/console/rules"
VERDICTS = {"approve": "/approvals/rules/approve", "reject": "/approvals/rules/reject"}
SHOWN, LONGEST = 50, 200


@dataclass(frozen=True)
class Wanted:
    """A change with what would be other: rows of what, as it holds and as it is wanted."""

    change: PolicyChange
    duty: Duty | None
    rows: tuple[tuple[str, str, str], ...]


class RulePages:
    """server: which takes the decision."""

    def __init__(self, store: ControlStore, server: Server, threads: ThreadPoolExecutor):
        self._store, self._server, self._threads = store, server, threads

    async def show(self, request: Request, viewer: Viewer) -> Response:
        return await in_thread(self._threads, partial(self._made, viewer))

    async def decide(self, request: Request, viewer: Viewer, form: Mapping[str, str]) -> Response:
        """Approve or reject a change. Of two at once the second is told who came first, with their own words kept."""
        path = VERDICTS.get(form.get("verdict", ""))
        if path is None:
            raise Refused(400, "A change of rules is approved or rejected.")
        body = {"id": form.get("id", ""), "reason": form.get("reason", "")}
        answer = await self._server.ask(viewer.principal, "POST", path, body)
        if answer.status >= 400:
            return await in_thread(self._threads, partial(self._made, viewer, answer, form))
        return RedirectResponse(PATH, 303)

    def _made(self, viewer: Viewer, refusal: Answer | None = None, form: Mapping[str, str] | None = None) -> Response:
        seen = [one for one in list_changes(self._store) if viewer.may_look(one.use_case)]
        names = {one.use_case for one in seen[:SHOWN]}
        with self._store.reading() as connection:
            held, watched = all_in_force(connection, names), newest_definitions(connection, names)
        found = [_beside(one, held.get(one.use_case), watched.get(one.use_case), viewer) for one in seen[:SHOWN]]
        waiting = [one for one in found if one.duty]
        status, error = (refusal.status, refusal.error) if refusal else (200, "")
        return page(
            "rules", viewer, status, waiting=waiting, decided=[one for one in found if not one.duty],
            older=max(0, len(seen) - SHOWN), error=error, form=form or {},
        )  # fmt: skip


def _beside(change: PolicyChange, held: InForce | None, watched: MonitoringRevision | None, viewer: Viewer) -> Wanted:
    policy = held.policy if held else Policy()
    waits = change.state == "requested" and viewer.now < change.expires_at
    duty = of_change(change, policy, viewer) if waits else None
    if change.monitoring is not None:
        holds, wants = watched and watched.definition, change.monitoring["definition"]
        return Wanted(change, duty, _rows(holds or {}, wants or {}))
    rows = _rows(policy.to_json(), change.policy.to_json() if change.policy else {})
    gates = (held.gates if held else None) or (), change.gates or ()
    rows += tuple(("gate", gate, "") for gate in gates[0] if gate not in gates[1])
    return Wanted(change, duty, rows + tuple(("gate", "", gate) for gate in gates[1] if gate not in gates[0]))


def _rows(holds: Mapping[str, Any], wants: Mapping[str, Any]) -> tuple[tuple[str, str, str], ...]:
    names = [name for name in {**holds, **wants} if holds.get(name) != wants.get(name)]
    return tuple((name, _text(holds, name), _text(wants, name)) for name in names)


def _text(value: Mapping[str, Any], name: str) -> str:
    return str(value[name])[:LONGEST] if name in value else "not demanded"
