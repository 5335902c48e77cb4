"""A use case: what is live and since when, its rollout, versions, alarms and retrainings."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from mlops_ray.console.cost import Costs, chart
from mlops_ray.console.forms import number_of
from mlops_ray.console.page import Refused, Viewer, in_thread, page
from mlops_ray.console.server import Answer, Server
from mlops_ray.console.standing import Standings
from mlops_ray.console.time_line import time_line
from mlops_ray.governance.alarms import recent_alarms
from mlops_ray.governance.approvals import newest_states
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import newest_events
from mlops_ray.governance.history import deployments, recent_changes
from mlops_ray.governance.inventory import inventory
from mlops_ray.governance.live import read_live
from mlops_ray.governance.policies import policy_of
from mlops_ray.governance.retrainings import DECIDED, FINISHED
from mlops_ray.governance.versions import list_versions

MAX_ALARMS, MAX_VERSIONS, MAX_SPANS, MAX_RETRAININGS = 20, 50, 30, 20
MAX_CHANGES = 100
ROLLOUT_ACTIONS = ("start", "pause", "resume", "promote", "rollback")
SILENCES_HOURS = {4: "4 hours", 24: "a day", 168: "a week"}


class UseCasePages:
    """server: whose rollouts these are."""

    def __init__(
        self, store: ControlStore, server: Server, threads: ThreadPoolExecutor, standings: Standings, costs: Costs
    ):
        self._store, self._server, self._threads = store, server, threads
        self._standings, self._costs = standings, costs

    async def show(self, request: Request, viewer: Viewer) -> Response:
        return await self._shown(viewer, request.path_params["use_case"])

    async def roll(self, request: Request, viewer: Viewer, form: Mapping[str, str]) -> Response:
        """Begin a rollout, pause it, let it go on, end it with its version as champion, or go back; on the revision
        that the viewer saw. Of two who do so at once the second is told who came first, with their own words kept."""
        use_case, action = request.path_params["use_case"], form.get("action", "")
        viewer.expect_look(use_case)
        if action not in ROLLOUT_ACTIONS:
            raise Refused(400, f"A rollout is told one of {', '.join(ROLLOUT_ACTIONS)}.")
        which = "version" if action == "start" else "to"
        wanted: dict[str, Any] = {which: number_of(form, which), "revision": number_of(form, "revision")}
        wanted["reason"] = form.get("reason", "")
        path = "/rollout" if action == "start" else f"/rollout/{action}"
        answer = await self._server.ask(viewer.principal, "POST", path, wanted, use_case)
        if answer.status >= 400:
            return await self._shown(viewer, use_case, answer, form)
        return RedirectResponse(f"/console/use-cases/{use_case}#rollout", 303)

    async def silence(self, request: Request, viewer: Viewer, form: Mapping[str, str]) -> Response:
        """Let nobody act on an alarm for some hours."""
        use_case, hours = request.path_params["use_case"], number_of(form, "hours")
        viewer.expect_look(use_case)
        if hours not in SILENCES_HOURS:
            raise Refused(400, f"An alarm is silenced for {', '.join(map(str, SILENCES_HOURS))} hours.")
        until = (viewer.now + timedelta(hours=hours)).isoformat()
        wanted = {"use_case": use_case, "alarm": form.get("alarm", ""), "until": until}
        wanted["reason"] = form.get("reason", "")
        answer = await self._server.ask(viewer.principal, "POST", "/alarms/silence", wanted)
        if answer.status >= 400:
            return await self._shown(viewer, use_case, answer, form)
        return RedirectResponse(f"/console/use-cases/{use_case}#alarms", 303)

    async def _shown(
        self, viewer: Viewer, use_case: str, refusal: Answer | None = None, form: Mapping[str, str] | None = None
    ) -> Response:
        viewer.expect_look(use_case)
        told = None
        if viewer.may("operate", use_case):
            answer = await self._server.ask(viewer.principal, "GET", "/rollout", use_case=use_case)
            told = answer.body if answer.status == 200 else None
        return await in_thread(self._threads, partial(self._made, viewer, use_case, told, refusal, form or {}))

    def _made(
        self, viewer: Viewer, use_case: str, told: Any, refusal: Answer | None, form: Mapping[str, str]
    ) -> Response:
        values = use_case_values(self._store, viewer, use_case)
        status = refusal.status if refusal else 200
        values["standing"] = self._standings.of([use_case]).get(use_case)
        month = self._costs.of([use_case]).get(use_case)
        values |= {"month": month, "cost_chart": chart(month.steps) if month else ""}
        error = refusal.error if refusal else ""
        return page("use_case", viewer, status, **values, told=told, error=error, form=form)


def use_case_values(store: ControlStore, viewer: Viewer, use_case: str) -> dict[str, Any]:
    """Raises Refused where there is no such use case."""
    entry = next(iter(inventory(store, viewer.now, use_case)), None)
    if entry is None:
        raise Refused(404, f"There is no use case {use_case[:63]!a}.")
    alarms = recent_alarms(store, use_case, MAX_ALARMS)[::-1]
    alarms.sort(key=lambda one: (one.resolved_at is not None, not one.is_open(viewer.now)))
    versions = list_versions(store, use_case)[::-1]
    approvals = newest_states(store, use_case)
    changed = recent_changes(store, use_case, MAX_CHANGES)
    spans = deployments(changed)[::-1]
    if len(changed) == MAX_CHANGES:  # what these began with began before
        spans = tuple(one for one in spans if one.since > changed[0].time)
    with store.reading() as connection:
        state, policy = read_live(connection, use_case), policy_of(connection, use_case)
    comes_in = [
        one.version
        for one in versions
        if not one.retired_at and state.champion and one.version != state.champion.version
        if approvals.get(one.version) == "approved" or not policy.required
    ]
    return {
        "entry": entry.shown(viewer.now),
        "state": state,
        "comes_in": comes_in[:MAX_VERSIONS],
        "plan": policy.default_plan(),
        "alarms": alarms,
        "silences": SILENCES_HOURS,
        "versions": versions[:MAX_VERSIONS],
        "older_versions": max(0, len(versions) - MAX_VERSIONS),
        "approvals": approvals,
        "spans": spans[:MAX_SPANS],
        "older_spans": len(spans) > MAX_SPANS or len(changed) == MAX_CHANGES,
        "chart": time_line(spans[:MAX_SPANS], viewer.now),
        "retrainings": newest_events(store, None, use_case, (DECIDED, FINISHED), limit=MAX_RETRAININGS),
    }
