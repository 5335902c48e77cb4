"""Policies: what a use case demands before a version of it may be live, and how its rollouts have to be."""

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from msgspec.structs import replace
from sqlalchemy import Connection, Row, delete, insert, select

from mlops_ray.errors import ConfigurationError
from mlops_ray.governance.events import Actor, record
from mlops_ray.governance.plan import MAX_HOLD_S, Plan
from mlops_ray.governance.tables import policies

LONGEST_S = 3660 * 86_400
"""Ten years: no duration that a use case demands is longer, so that a moment and a duration make a moment."""
_DURATIONS = (
    "expires_after_s", "min_rollout_s", "broken_glass_escalates_after_s", "broken_glass_ends_after_s",
)  # fmt: skip


@dataclass(frozen=True)
class Policy:
    """What a use case demands. required: no version goes live without an approval.

    role: who may approve. four_eyes: not the version's author, and not who broke the glass for it. expires_after_s: how
    long a request waits, and how long an approval can be used.

    The rest is None where nothing is demanded. min_rollout_steps, min_rollout_s, max_error_rate: no plan of a rollout
    has fewer steps, is shorter, or has a larger rule `max_error_rate`. broken_glass_escalates_after_s: a version for
    which the glass was broken, and which nobody has approved since, is a critical event again after this long, and
    again. broken_glass_ends_after_s: after this long it is left for the last champion that may serve. signed: no
    version is loaded or goes live without a signature of its model that holds (`governance.signatures`). min_approvers:
    how many persons have to approve a version, or another policy; one where it is None.

    Raises ConfigurationError for a duration above LONGEST_S.
    """

    required: bool = False
    role: str = "approve"
    four_eyes: bool = True
    expires_after_s: float = 30 * 86_400
    min_rollout_steps: int | None = None
    min_rollout_s: float | None = None
    max_error_rate: float | None = None
    broken_glass_escalates_after_s: float | None = None
    broken_glass_ends_after_s: float | None = None
    signed: bool | None = None
    min_approvers: int | None = None

    def __post_init__(self) -> None:
        for name in _DURATIONS:
            if (getattr(self, name) or 0) > LONGEST_S:
                raise ConfigurationError(f"{name} is {getattr(self, name):g}, of at most {LONGEST_S} (ten years).")

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Policy":
        """What was stored, when a duration could be longer, is cut to LONGEST_S."""
        longest = {name: min(stored[name], LONGEST_S) for name in _DURATIONS if stored.get(name)}
        return cls(**{**stored, **longest})

    def to_json(self) -> dict[str, object]:
        """Without what is not demanded: a process of the version before can read it as long as nothing newer is."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def default_plan(self) -> Plan:
        """The default plan, with as many steps, as long and as strict as the use case demands."""
        steps, rules = Plan().steps, Plan().rules
        number = max(len(steps), self.min_rollout_steps or 0, math.ceil((self.min_rollout_s or 0) / MAX_HOLD_S))
        steps += (steps[-1],) * (number - len(steps))
        longer = max(1.0, (self.min_rollout_s or 0) / sum(step.hold_s for step in steps))
        held = tuple(replace(step, hold_s=min(MAX_HOLD_S, math.ceil(step.hold_s * longer))) for step in steps)
        strictest = min(rules.max_error_rate, 1.0 if self.max_error_rate is None else self.max_error_rate)
        return Plan(held, replace(rules, max_error_rate=strictest))

    def expect_allows(self, use_case: str, plan: Plan) -> None:
        """Raise ConfigurationError for a plan that is shorter, or allows more errors, than the use case demands."""
        steps, held_s = len(plan.steps), sum(step.hold_s for step in plan.steps)
        if self.min_rollout_steps is not None and steps < self.min_rollout_steps:
            raise ConfigurationError(
                f"The plan has {steps} steps, and a rollout of {use_case} needs {self.min_rollout_steps}. Add steps."
            )
        if self.min_rollout_s is not None and held_s < self.min_rollout_s:
            raise ConfigurationError(
                f"The plan's steps hold for {held_s:g} s together, and a rollout of {use_case} takes at least "
                f"{self.min_rollout_s:g} s. Hold them longer."
            )
        if self.max_error_rate is not None and plan.rules.max_error_rate > self.max_error_rate:
            raise ConfigurationError(
                f"The plan's rule max_error_rate is {plan.rules.max_error_rate:g}, and {use_case} allows at most "
                f"{self.max_error_rate:g}. Lower it."
            )


@dataclass(frozen=True)
class InForce:
    """What holds for a use case. gates: by which its versions are judged, as text; None where nobody has said.

    since: when approvals were demanded, or the rest was written where they are not.
    """

    policy: Policy
    gates: tuple[str, ...] | None
    since: datetime


def write_policy(
    connection: Connection,
    actor: Actor,
    use_case: str,
    policy: Policy | None,
    gates: tuple[str, ...] | None,
    now: datetime,
    reason: str = "",
    change: str | None = None,
) -> None:
    """Let this hold from now on, None for nothing, with `policy.changed`, inside the caller's transaction.

    change: the id of the request that was approved, where one was needed. Who may is judged in `policy_changes`.
    """
    before = in_force(connection, use_case)
    connection.execute(delete(policies).where(policies.c.use_case == use_case))
    still = before is not None and before.policy.required and policy is not None and policy.required
    since = before.since if still and before else now
    if policy is not None:
        row = {"use_case": use_case, "policy": policy.to_json(), "since": since, "gates": gates and list(gates)}
        connection.execute(insert(policies).values(row))
    payload = {"since": since, "gates": gates, "gates_before": before and before.gates, "change": change}
    record(
        connection,
        "policy.changed",
        actor,
        f"policy {use_case}",
        use_case,
        before=before and before.policy.to_json(),
        after=policy and policy.to_json(),
        payload=payload,
        reason=reason,
        now=now,
    )


def in_force(connection: Connection, use_case: str) -> InForce | None:
    """None where nothing was stored."""
    row = connection.execute(select(policies).where(policies.c.use_case == use_case)).first()
    return None if row is None else _in_force(row)


def all_in_force(connection: Connection, use_cases: Collection[str]) -> dict[str, InForce]:
    """As `in_force`, of each that stored something."""
    query = select(policies).where(policies.c.use_case.in_(use_cases))
    return {row.use_case: _in_force(row) for row in connection.execute(query)}


def _in_force(row: Row[Any]) -> InForce:
    return InForce(Policy.from_json(row.policy), None if row.gates is None else tuple(row.gates), row.since)


def policy_of(connection: Connection, use_case: str) -> Policy:
    """What a use case demands; nothing where nothing was stored."""
    found = in_force(connection, use_case)
    return found.policy if found else Policy()


def policies_of(connection: Connection, use_cases: Collection[str]) -> dict[str, Policy]:
    """As `policy_of`, of each that stored something."""
    return {name: found.policy for name, found in all_in_force(connection, use_cases).items()}
