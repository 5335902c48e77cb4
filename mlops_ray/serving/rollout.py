"""What happens next to a rollout: a pure function of counters and time. Replicas carry the decision out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from mlops_ray.governance.live import Live, Replica, Rollout, Rules
from mlops_ray.serving.counters import Counts

FRESH = timedelta(seconds=15)
LOADING_LIMIT = timedelta(minutes=10)
MIN_ERRORS = 3
Z_99 = 2.326


@dataclass(frozen=True)
class Decision:
    """`advance` begins the next step, `fail` ends the rollout of a version that cannot be served.

    `reason` is a sentence with the numbers, `numbers` the same for machines.
    """

    action: Literal["advance", "promote", "roll_back", "fail"]
    reason: str
    numbers: dict[str, Any] = field(default_factory=dict)


def step_key(rollout: Rollout) -> str:
    """Names the step to which a replica's counters belong."""
    return f"{rollout.id}/{rollout.step}"


def decide(live: Live, replicas: Sequence[Replica], alarms: Sequence[str], now: datetime) -> Decision | None:
    """The next move of the rollout in `live`, or None to wait.

    replicas: all heard of lately; one counts as alive if it spoke within `FRESH`. alarms: titles of open alarms about
    the version, from monitoring.
    """
    rollout = live.rollout
    if rollout is None:
        return None
    alive = [replica for replica in replicas if replica.seen_at and now - replica.seen_at <= FRESH]
    failures = [replica.failed[rollout.version.digest] for replica in alive if rollout.version.digest in replica.failed]
    if failures:
        return Decision("fail", f"The version does not load: {failures[0]}", {"replicas_failed": len(failures)})
    if rollout.state == "loading":
        return _after_loading(rollout, alive, now)
    return _after_step(rollout, replicas, alarms, now)


def _after_loading(rollout: Rollout, alive: Sequence[Replica], now: datetime) -> Decision | None:
    if alive and all(rollout.version.digest in replica.loaded for replica in alive):
        numbers = {"replicas": len(alive)}
        return Decision("advance" if rollout.plan.steps else "promote", f"{len(alive)} replicas hold it.", numbers)
    if now - rollout.started_at > LOADING_LIMIT:
        return Decision("fail", f"Not loaded by all replicas within {LOADING_LIMIT}.")
    return None


def _after_step(rollout: Rollout, replicas: Sequence[Replica], alarms: Sequence[str], now: datetime) -> Decision | None:
    champion, version = _total(replicas, rollout, "champion"), _total(replicas, rollout, "version")
    rules, step = rollout.plan.rules, rollout.plan.steps[rollout.step]
    numbers = _numbers(champion, version)
    problem = _problem(rules, champion, version) or (f"Alarm: {alarms[0]}" if alarms else None)
    if problem:
        return Decision("roll_back", problem, numbers)
    held_s = (now - rollout.step_since).total_seconds()
    if held_s < step.hold_s or version.requests < rules.min_requests:
        return None
    passed = f"{step.route} {step.share:.0%} held for {held_s:.0f} s, {version.requests:,} requests, no rule broken."
    if rollout.step + 1 < len(rollout.plan.steps):
        return Decision("advance", passed, numbers)
    return Decision("promote", passed, numbers) if rollout.plan.automatic else None


def _problem(rules: Rules, champion: Counts, version: Counts) -> str | None:
    """The first rule that the version breaks, in words."""
    if version.errors >= MIN_ERRORS:
        surely = lower_bound(version.errors, version.requests)
        allowed = rules.max_error_rate + (champion.errors / champion.requests if champion.requests else 0.0)
        if surely > allowed:
            return (
                f"{version.errors:,} of {version.requests:,} requests failed: the rate is above {surely:.1%} with 99 % "
                f"certainty, the limit {allowed:.1%}."
            )
    if version.requests < rules.min_requests:
        return None
    ours, theirs = version.median_s(), champion.median_s()
    if ours and theirs and champion.requests >= rules.min_requests and ours > rules.max_latency_ratio * theirs:
        return (
            f"Median latency {ours * 1000:.1f} ms is {ours / theirs:.1f} times the champion's "
            f"(limit {rules.max_latency_ratio:g})."
        )
    if rules.max_disagreement is not None and version.compared >= rules.min_requests:
        mean = version.difference / version.compared
        if mean > rules.max_disagreement:
            return (
                f"Probabilities differ from the champion's by {mean:.3f} on average (limit {rules.max_disagreement:g})."
            )
    return None


def lower_bound(errors: int, requests: int, z: float = Z_99) -> float:
    """The one-sided lower limit of an error rate (Wilson, JASA 22, 1927, eq. for p1; z = 2.326 is 99 %)."""
    rate = errors / requests
    centre = rate + z * z / (2 * requests)
    spread = z * math.sqrt(rate * (1 - rate) / requests + z * z / (4 * requests * requests))
    return (centre - spread) / (1 + z * z / requests)


def progress(rollout: Rollout, replicas: Sequence[Replica]) -> dict[str, Any]:
    """What the step that is in force has counted so far, over all replicas."""
    return _numbers(_total(replicas, rollout, "champion"), _total(replicas, rollout, "version"))


def _total(replicas: Sequence[Replica], rollout: Rollout, side: str) -> Counts:
    """Over all replicas, also those that died since: what they counted happened."""
    key, total = step_key(rollout), Counts()
    for replica in replicas:
        if replica.counters.get("step") == key:
            total = total + Counts.from_json(replica.counters[side])
    return total


def _numbers(champion: Counts, version: Counts) -> dict[str, Any]:
    shown = {}
    for side, counts in (("champion", champion), ("version", version)):
        shown[side] = {"requests": counts.requests, "errors": counts.errors, "median_s": counts.median_s()}
    mean = version.difference / version.compared if version.compared else None
    return {**shown, "mean_difference": mean}
