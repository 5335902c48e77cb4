"""The overview: every use case that the viewer may see, and what waits for whom."""

from typing import Any

from mlops_ray.console.cost import Budgets
from mlops_ray.console.duties import of_alarms, of_approval, of_change, of_review
from mlops_ray.console.page import Viewer
from mlops_ray.console.standing import Standings
from mlops_ray.governance.alarms import AlarmRecord, StandingAlarms
from mlops_ray.governance.approvals import list_approvals
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.inventory import with_alarms
from mlops_ray.governance.policies import Policy, policies_of
from mlops_ray.governance.policy_changes import list_changes

MAX_DUTIES = 50


def overview(
    store: ControlStore, standings: Standings, budgets: Budgets, known: StandingAlarms, viewer: Viewer
) -> dict[str, Any]:
    """Values for its template: use cases as `inventory` has them, those with most to do first, and the duties, the
    viewer's own first."""
    every, alarms = with_alarms(store, viewer.now, known=known)
    entries = [one for one in every if viewer.may_look(one.use_case)]
    waiting = list_approvals(store, limit=0, sees=viewer.may_look)
    wanted = [one for one in list_changes(store, state="requested") if viewer.may_look(one.use_case)]
    with store.reading() as connection:
        policies = policies_of(connection, {*(one.use_case for one in waiting), *(one.use_case for one in wanted)})
    duties = [of_approval(one, policies.get(one.use_case, Policy()), viewer) for one in waiting]
    duties += [
        of_change(one, policies.get(one.use_case, Policy()), viewer) for one in wanted if viewer.now < one.expires_at
    ]
    by_case: dict[str, list[AlarmRecord]] = {}
    for alarm in alarms:
        by_case.setdefault(alarm.use_case, []).append(alarm)
    for entry in entries:
        duties += of_alarms(entry, by_case.get(entry.use_case, []), viewer)
        duties += of_review(entry, viewer)
    duties.sort(key=lambda duty: (not duty.yours, duty.since))
    asked: dict[str, int] = {}
    for one in waiting:
        asked[one.use_case] = asked.get(one.use_case, 0) + 1
    cases = [one.shown(viewer.now) | {"waiting": asked.get(one.use_case, 0)} for one in entries]
    cases.sort(key=lambda one: (-one["open_alarms"] - one["waiting"] - one["overdue"], one["use_case"]))
    stand = standings.of(one["use_case"] for one in cases)
    spent = budgets.nearly_spent()
    for case in cases:
        case |= {"standing": stand.get(case["use_case"]), "month": (spent or {}).get(case["use_case"])}
    told = {"duties": duties[:MAX_DUTIES], "left_out": max(0, len(duties) - MAX_DUTIES)}
    return told | {"cases": cases, "budgets_are_read": spent is not None}
