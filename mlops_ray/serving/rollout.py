"""What happens next to a rollout: a pure function of counters and time. Replicas carry the decision out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from statistics import NormalDist
from typing import Any, Literal

from mlops_ray.governance.live import Live, Rollout, Rules, Step
from mlops_ray.governance.replicas import Replica
from mlops_ray.serving.counters import Counts

LOADING_LIMIT = timedelta(minutes=10)
MIN_ERRORS = 3
CERTAINTY = 0.99


@dataclass(frozen=True)
class Decision:
    """`advance` begins the next step, `fail` ends the rollout of a version that cannot be served.

    `reason` is a sentence with the numbers, `numbers` the same for machines.
    """

    action: Literal["advance", "promote", "roll_back", "fail"]
    reason: str
    numbers: dict[str, Any] = field(default_factory=dict)


def step_key(rollout: Rollout) -> str:
    """Names the step to which a replica's counters belong; "" before the first."""
    return "" if rollout.state == "loading" else f"{rollout.id}/{rollout.step}"


def decide(live: Live, replicas: Sequence[Replica], alarms: Sequence[str], now: datetime) -> Decision | None:
    """The next move of the rollout in `live`, or None to wait: where it is paused, until a person lets it go on, unless
    a rule is broken.

    replicas: all heard of lately, those that are dead or have left too. alarms: titles of open alarms about the
    version, from monitoring. now: by the clock that their `seen_at` is of.
    """
    rollout = live.rollout
    if rollout is None:
        return None
    version = rollout.version
    alive = [replica for replica in replicas if replica.is_alive(now)]
    failures = [replica.failed[version] for replica in alive if version in replica.failed]
    if failures:
        return Decision("fail", f"The version does not load: {failures[0]}", {"replicas_failed": len(failures)})
    waiting = [replica for replica in alive if version not in replica.loaded]
    overdue = _overdue(rollout, waiting, now)
    if overdue:
        return Decision("fail", overdue, {"replicas_waiting": len(waiting)})
    if rollout.state == "loading":
        if not alive or waiting or rollout.paused_at is not None:
            return None
        action: Literal["advance", "promote"] = "advance" if rollout.plan.steps else "promote"
        return Decision(action, f"{len(alive)} replicas hold it.", {"replicas": len(alive)})
    decision = _after_step(rollout, replicas, alarms, now)
    if decision is not None and decision.action == "promote" and (waiting or not alive):
        return None  # one that started meanwhile, or is silent, may go on to serve the old version
    return decision


def _overdue(rollout: Rollout, waiting: Sequence[Replica], now: datetime) -> str | None:
    """Why the version will not be ready everywhere: in words, None while that is not said."""
    late = rollout.state == "loading" and now - rollout.started_at > LOADING_LIMIT
    for replica in waiting:
        loading = replica.loading.get(rollout.version)
        if late or (loading and loading.seconds > LOADING_LIMIT.total_seconds()):
            why = f": {loading.trouble}" if loading and loading.trouble else "."
            return f"Replica {replica.id} did not load it within {LOADING_LIMIT}{why}"
    return f"No replica loaded it within {LOADING_LIMIT}." if late else None


def _after_step(rollout: Rollout, replicas: Sequence[Replica], alarms: Sequence[str], now: datetime) -> Decision | None:
    champion, version = _total(replicas, rollout, "champion"), _total(replicas, rollout, "version")
    rules, step = rollout.plan.rules, rollout.plan.steps[rollout.step]
    numbers = _numbers(champion, version)
    problem = _problem(rules, step, champion, version) or _problem_at_one(rollout, replicas)
    problem = problem or (f"Alarm: {alarms[0]}" if alarms else None)
    if problem:
        return Decision("roll_back", problem, numbers)
    if rollout.paused_at is not None:
        return None
    held_s = (now - rollout.step_since).total_seconds()
    if held_s < step.hold_s or version.requests < rules.min_requests:
        return None
    passed = f"{step.route} {step.share:.0%} held for {held_s:.0f} s, {version.requests:,} requests, no rule broken."
    if rollout.step + 1 < len(rollout.plan.steps):
        return Decision("advance", passed, numbers)
    return Decision("promote", passed, numbers) if rollout.plan.automatic else None


def _problem_at_one(rollout: Rollout, replicas: Sequence[Replica]) -> str | None:
    """The first rule that the version breaks at a single replica, which the others' numbers would hide.

    As certain over all of them as over their sum (Bonferroni): of many replicas, some look bad by chance.
    """
    counted = [replica for replica in replicas if replica.step == step_key(rollout)]
    step = rollout.plan.steps[rollout.step]
    for replica in counted if len(counted) > 1 else ():
        champion, version = (Counts.from_json(replica.counters[side]) for side in ("champion", "version"))
        problem = _problem(rollout.plan.rules, step, champion, version, 1 - (1 - CERTAINTY) / len(counted))
        if problem:
            return f"Replica {replica.id}: {problem}"
    return None


def _problem(rules: Rules, step: Step, champion: Counts, version: Counts, certainty: float = CERTAINTY) -> str | None:
    """The first rule that the version breaks, in words."""
    if version.errors >= MIN_ERRORS:
        surely = lower_bound(version.errors, version.requests, NormalDist().inv_cdf(certainty))
        allowed = rules.max_error_rate + (champion.errors / champion.requests if champion.requests else 0.0)
        if surely > allowed:
            return (
                f"{version.errors:,} of {version.requests:,} requests failed: the rate is above {surely:.1%} with "
                f"{certainty * 100:.4g} % certainty, the limit {allowed:.1%}."
            )
    if version.requests < rules.min_requests:
        return None
    # Like with like: a canary is asked as the champion is, from the first byte on; a shadow sees no bytes.
    shadow = step.route == "shadow"
    ours, theirs = (
        (version.work_median_s(), champion.work_median_s()) if shadow else (version.median_s(), champion.median_s())
    )
    if ours and theirs and champion.requests >= rules.min_requests and ours > rules.max_latency_ratio * theirs:
        return (
            f"Median latency {ours * 1000:.1f} ms is {ours / theirs:.1f} times the champion's "
            f"(limit {rules.max_latency_ratio:g})."
        )
    if rules.max_disagreement is not None and version.compared >= rules.min_requests:
        mean = version.difference / version.compared
        if mean > rules.max_disagreement:
            return f"Answers differ from the champion's by {mean:.3f} on average (limit {rules.max_disagreement:g})."
    return None


def lower_bound(errors: int, requests: int, z: float) -> float:
    """The one-sided lower limit of an error rate (Wilson, JASA 22, 1927, eq. for p1; z = 2.326 is 99 %)."""
    rate = errors / requests
    centre = rate + z * z / (2 * requests)
    spread = z * math.sqrt(rate * (1 - rate) / requests + z * z / (4 * requests * requests))
    return (centre - spread) / (1 + z * z / requests)


def progress(rollout: Rollout, replicas: Sequence[Replica]) -> dict[str, Any]:
    """What the step that is in force has counted so far, over all replicas."""
    return _numbers(_total(replicas, rollout, "champion"), _total(replicas, rollout, "version"))


def _total(replicas: Sequence[Replica], rollout: Rollout, side: str) -> Counts:
    """Over all replicas, also those that died or left since: what they counted happened."""
    key, total = step_key(rollout), Counts()
    for replica in replicas:
        if key and replica.step == key:
            total = total + Counts.from_json(replica.counters[side])
    return total


def _numbers(champion: Counts, version: Counts) -> dict[str, Any]:
    shown = {}
    for side, counts in (("champion", champion), ("version", version)):
        shown[side] = {"requests": counts.requests, "errors": counts.errors, "median_s": counts.median_s()}
    mean = version.difference / version.compared if version.compared else None
    return {**shown, "mean_difference": mean}
