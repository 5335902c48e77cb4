"""What the ledger and a shadow cost our endpoint, at a fixed rate of half its capacity.

With and without take turns several times a second in the same replicas (`turns`), so that what else the machine does
falls on both of a pair. The interval is of the median over the pairs (95 %, BCa bootstrap).
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from contest import work
from contest.load import Target
from contest.turns import ask, blocks
from mlops_ray.governance.control_store import ControlStore, open_store
from mlops_ray.governance.events import SYSTEM
from mlops_ray.governance.live import Plan, Rules, Step, VersionRef, live
from mlops_ray.governance.rollback import roll_back
from mlops_ray.governance.rollouts import start_rollout

CLIENTS = 64
SWITCHED_AFTER_S = 0.5
FOLLOWED_AFTER_S = 5.0
NAME = "flights"


@dataclass(frozen=True)
class Measure:
    """Which quantile of so many turns is a pair, and for how long turns are taken."""

    quantile: float
    turn_s: float
    turns: int
    seconds: float


# A pair of medians needs a few hundred answers, one of 99th percentiles thousands; and a shadow is at work for a while
# after the answer.
LEDGER, SHADOW = Measure(0.5, 0.25, 4, 540.0), Measure(0.99, 0.5, 8, 900.0)


@dataclass(frozen=True)
class Cost:
    """How much more with than without, in percent: the median over the pairs and its 95 % interval."""

    percent: float
    low: float
    high: float


def ledger_cost(target: Target, requests_per_s: float) -> Cost:
    """On the p50."""
    return _cost("ledger, p50", target, requests_per_s, work.LEDGER_TURNS, LEDGER)


def shadow_cost(target: Target, requests_per_s: float) -> Cost:
    """Of mirroring every request to a second version, on the p99."""
    store = open_store(work.settings())
    version = VersionRef(2, (work.SEALED / "2.digest").read_text())
    plan = Plan((Step("shadow", 1.0, hold_s=3600),), Rules(min_requests=10**9), automatic=False)
    start_rollout(store, SYSTEM, NAME, version, plan)
    try:
        _wait_until_running(store)
        return _cost("shadow, p99", target, requests_per_s, work.SHADOW_TURNS, SHADOW)
    finally:
        roll_back(store, SYSTEM, NAME, live(store, NAME).revision, 1, "the benchmark is done")
        store.close()


def _cost(name: str, target: Target, requests_per_s: float, turns: Path, measure: Measure) -> Cost:
    turns.write_text(str(measure.turn_s))
    try:
        time.sleep(SWITCHED_AFTER_S)
        found = ask(target, CLIENTS, requests_per_s, measure.seconds)
    finally:
        turns.unlink()
    pairs = [
        (np.quantile(with_it, measure.quantile), np.quantile(without, measure.quantile))
        for with_it, without in blocks(found, measure.turn_s, measure.turns)
    ]
    log_ratios = np.log([with_it / without for with_it, without in pairs])
    interval = stats.bootstrap((log_ratios,), np.median, rng=np.random.default_rng(0)).confidence_interval
    percent, low, high = (float(100 * np.expm1(found)) for found in (np.median(log_ratios), *interval))
    with_ms, without_ms = 1000 * np.median(pairs, axis=0)
    print(
        f"{name} at {requests_per_s:.0f} requests/s, {len(pairs)} pairs: {percent:+.1f} % ({low:+.1f} to "
        f"{high:+.1f} %); medians {with_ms:.3f} against {without_ms:.3f} ms",
        file=sys.stderr,
    )
    return Cost(percent, low, high)


def _wait_until_running(store: ControlStore) -> None:
    """Every replica has loaded the shadow and asks it."""
    deadline = time.monotonic() + 60
    while (rollout := live(store, NAME).rollout) is None or rollout.state != "running":
        if time.monotonic() > deadline:
            raise SystemExit("The shadow was not loaded within 60 s.")
        time.sleep(0.2)
    time.sleep(FOLLOWED_AFTER_S)
