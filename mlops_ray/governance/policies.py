"""Policies: what a use case demands before a version of it may be live, and how its rollouts have to be."""

from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from sqlalchemy import Connection, delete, insert, select

from mlops_ray.errors import ConfigurationError
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import Actor, record
from mlops_ray.governance.plan import Plan
from mlops_ray.governance.tables import policies
from mlops_ray.governance.versions import expect_name


@dataclass(frozen=True)
class Policy:
    """What a use case demands. required: no version goes live without an approval.

    role: who may approve. four_eyes: not the version's author, and not who broke the glass for it. expires_after_s: how
    long a request waits, and how long an approval can be used.

    The rest is None where nothing is demanded. min_rollout_steps, min_rollout_s, max_error_rate: no plan of a rollout
    has fewer steps, is shorter, or has a larger rule `max_error_rate`. broken_glass_escalates_after_s: a version for
    which the glass was broken, and which nobody has approved since, is a critical event again after this long, and
    again. broken_glass_ends_after_s: after this long it is left for the last champion that may serve. signed: no
    version is loaded or goes live without a signature of its model that holds (`governance.signatures`).
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


def set_policy(
    store: ControlStore, actor: Actor, use_case: str, policy: Policy | None, now: datetime | None = None
) -> None:
    """Store what a use case demands, None for nothing, with `policy.changed` if it was otherwise before."""
    now = now or datetime.now(UTC)
    expect_name(use_case)
    with store.transaction() as connection:
        row = connection.execute(select(policies).where(policies.c.use_case == use_case)).first()
        before, after = row and row.policy, policy and _to_json(policy)
        if before == after:
            return
        connection.execute(delete(policies).where(policies.c.use_case == use_case))
        still = row is not None and row.policy.get("required") and policy is not None and policy.required
        since = row.since if row is not None and still else now
        if policy is not None:
            connection.execute(insert(policies).values(use_case=use_case, policy=after, since=since))
        subject = f"policy {use_case}"
        payload = {"since": since}
        record(connection, "policy.changed", actor, subject, use_case, before, after, payload=payload, now=now)


def policy_of(connection: Connection, use_case: str) -> Policy:
    """What a use case demands; nothing where nothing was stored."""
    stored = connection.execute(select(policies.c.policy).where(policies.c.use_case == use_case)).scalar()
    return Policy(**stored) if stored else Policy()


def required_since(connection: Connection, use_case: str) -> datetime | None:
    """Since when no version goes live without an approval; None where one does."""
    row = connection.execute(select(policies).where(policies.c.use_case == use_case)).first()
    return row.since if row is not None and row.policy.get("required") else None


def _to_json(policy: Policy) -> dict[str, object]:
    """Without what is not demanded: a process of the version before can read it as long as nothing newer is."""
    return {name: value for name, value in asdict(policy).items() if value is not None}
