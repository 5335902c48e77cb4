"""Broken glass: what becomes of a champion that nobody has approved since the glass was broken for it."""

import logging
from datetime import datetime, timedelta

from sqlalchemy import Connection, select

from mlops_ray.governance.approvals import end_unapproved
from mlops_ray.governance.clearance import unapproved
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import SYSTEM, record
from mlops_ray.governance.live import Live, read_live
from mlops_ray.governance.policies import Policy, policy_of
from mlops_ray.governance.rollback import last_servable, leave
from mlops_ray.governance.tables import events, policies
from mlops_ray.governance.verdicts import Approval

_logger = logging.getLogger(__name__)


def follow_up(store: ControlStore, now: datetime) -> list[str]:
    """Say again that nobody has approved a champion, or leave it, where the use case says so. Call it at an interval.

    Returns the use cases in which something was done. A champion stays where no earlier one may serve; that is said
    as well. One in which it fails is logged, and keeps no other from it.
    """
    with store.reading() as connection:
        names = list(connection.execute(select(policies.c.use_case)).scalars())
    done = []
    for name in names:
        try:
            if _followed_up(store, name, now):
                done.append(name)
        except Exception:
            _logger.exception("The broken glass of %s could not be followed up", name)
    return done


def _followed_up(store: ControlStore, use_case: str, now: datetime) -> bool:
    with store.reading() as connection:  # most of the time there is none, and a transaction would lock out others
        if _due(connection, use_case, now) is None:
            return False
    with store.transaction() as connection:
        broken = _due(connection, use_case, now)  # somebody may have approved it meanwhile
        if broken is not None:
            _act(connection, read_live(connection, use_case), broken, now)
    return broken is not None


def _due(connection: Connection, use_case: str, now: datetime) -> Approval | None:
    """The broken glass of which something has to be said or done now."""
    policy = policy_of(connection, use_case)
    if policy.broken_glass_escalates_after_s is None and policy.broken_glass_ends_after_s is None:
        return None
    state = read_live(connection, use_case)
    broken = unapproved(connection, use_case, state.champion) if state.champion else None
    if broken is None:
        return None
    ends = _is_over(broken, policy, now) and last_servable(connection, state) is not None
    return broken if ends or _is_silent(connection, broken, policy, now) else None


def _act(connection: Connection, state: Live, broken: Approval, now: datetime) -> None:
    version = f"version {broken.version} of {broken.use_case}"
    since = f"since {broken.requested_by} broke the glass at {broken.requested_at:%Y-%m-%d %H:%M:%S} UTC"
    reason = f"Nobody has approved {version} {since}."
    if _is_over(broken, policy_of(connection, broken.use_case), now) and last_servable(connection, state) is not None:
        end_unapproved(connection, broken, reason, now)
        leave(connection, state, reason)
        return
    subject, payload = f"{broken.use_case}@{broken.version}", {"digest": broken.evidence.model, "approval": broken.id}
    record(connection, "break_glass", SYSTEM, subject, broken.use_case, payload=payload, reason=reason, now=now)


def _is_over(broken: Approval, policy: Policy, now: datetime) -> bool:
    after_s = policy.broken_glass_ends_after_s
    return after_s is not None and now >= broken.requested_at + timedelta(seconds=after_s)


def _is_silent(connection: Connection, broken: Approval, policy: Policy, now: datetime) -> bool:
    """Whether it was last said too long ago, by an event or by breaking the glass."""
    after_s = policy.broken_glass_escalates_after_s or policy.broken_glass_ends_after_s
    if after_s is None:
        return False
    of_it = events.c.subject == f"{broken.use_case}@{broken.version}", events.c.type == "break_glass"
    said = connection.execute(select(events.c.time).where(*of_it).order_by(events.c.seq.desc()).limit(1)).scalar()
    return said is None or now >= said + timedelta(seconds=after_s)
