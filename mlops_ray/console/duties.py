"""Duties: what waits for a person, and for whom."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from mlops_ray.console.page import Viewer
from mlops_ray.governance.alarms import AlarmRecord
from mlops_ray.governance.assents import may_be
from mlops_ray.governance.inventory import Entry
from mlops_ray.governance.policies import Policy
from mlops_ray.governance.policy_changes import PolicyChange
from mlops_ray.governance.verdicts import Approval


@dataclass(frozen=True)
class Duty:
    """Something that waits. who: must act, in words. yours: whether the viewer may. until: when it lapses, or None."""

    what: str
    who: str
    use_case: str
    link: str
    since: datetime
    yours: bool
    until: datetime | None = None


def of_approval(asked: Approval, policy: Policy, viewer: Viewer) -> Duty:
    """A request that waits: for whoever carries the role, and is not the author where four eyes are demanded."""
    need, given = policy.min_approvers or 1, len(asked.assents)
    who = f"anybody with the role {policy.role}" + (f", but not {asked.author}" if policy.four_eyes else "")
    actor = viewer.principal.actor(asked.use_case)
    author = policy.four_eyes and may_be(actor, asked.author, asked.author_id)
    gave = any(may_be(actor, one.name, one.id) for one in asked.assents)
    return Duty(
        f"Approve or reject version {asked.version}" + (f" ({given} of {need} have approved)" if need > 1 else ""),
        who,
        asked.use_case,
        f"/console/use-cases/{asked.use_case}/versions/{asked.version}#decision",
        asked.requested_at,
        viewer.may(policy.role, asked.use_case) and not author and not gave,
        asked.expires_at,
    )


def of_change(change: PolicyChange, policy: Policy, viewer: Viewer) -> Duty:
    """A change of rules that waits, under the policy in force."""
    need, given, actor = policy.min_approvers or 1, len(change.assents), viewer.principal.actor(change.use_case)
    who = f"anybody with the role {policy.role}" + (f", but not {change.requested_by}" if policy.four_eyes else "")
    author = policy.four_eyes and may_be(actor, change.requested_by, change.requested_by_id)
    gave = any(may_be(actor, one.name, one.id) for one in change.assents)
    what = "rules" if change.monitoring is None else "monitoring"
    return Duty(
        f"Approve or reject other {what}" + (f" ({given} of {need} have approved)" if need > 1 else ""),
        who,
        change.use_case,
        f"/console/rules#{change.id}",
        change.requested_at,
        viewer.may(policy.role, change.use_case) and not author and not gave,
        change.expires_at,
    )


def of_alarms(entry: Entry, alarms: Iterable[AlarmRecord], viewer: Viewer) -> list[Duty]:
    """Of those that somebody has to act on, as `governance.alarms.open_alarms` has it."""
    who = entry.declared.owner or "whoever operates it, as it names no owner"
    link, mine = f"/console/use-cases/{entry.use_case}#alarms", viewer.may("operate", entry.use_case)
    return [
        Duty(f"{one.severity}: {one.title}", who, entry.use_case, link, one.raised_at, mine)
        for one in alarms
        if one.is_open(viewer.now) and one.severity != "info"
    ]


def of_review(entry: Entry, viewer: Viewer) -> list[Duty]:
    """A review that is overdue; none otherwise."""
    due = entry.next_review_at
    if due is None or not entry.is_overdue(viewer.now):
        return []
    link, mine = f"/console/use-cases/{entry.use_case}", viewer.may("approve", entry.use_case)
    return [Duty("Review it: that is overdue", "anybody with the role approve", entry.use_case, link, due, mine)]
