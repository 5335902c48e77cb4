"""What the ledger and a shadow cost our endpoint, at a fixed rate of half its capacity.

With and without take turns every second in the same replicas, so that what else the machine does falls on both of a
pair. The interval is of the median over the pairs (95 %, BCa bootstrap).
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from contest import work
from contest.load import Load, Target, load
from mlops_ray.governance.control_store import ControlStore, open_store
from mlops_ray.governance.events import SYSTEM
from mlops_ray.governance.live import Plan, Rules, Step, VersionRef, live
from mlops_ray.governance.rollback import roll_back
from mlops_ray.governance.rollouts import start_rollout

PAIRS, SECONDS, CLIENTS = 60, 1, 64
SWITCHED_AFTER_S = 0.3
FOLLOWED_AFTER_S = 5.0
NAME = "flights"


@dataclass(frozen=True)
class Cost:
    """How much more with than without, in percent: the median over the pairs and its 95 % interval."""

    percent: float
    low: float
    high: float


def ledger_cost(target: Target, requests_per_s: float) -> Cost:
    """On the p50."""
    return _cost("ledger, p50", target, requests_per_s, work.LEDGER_OFF, lambda found: found.p50_ms)


def shadow_cost(target: Target, requests_per_s: float) -> Cost:
    """Of mirroring every request to a second version, on the p99."""
    store = open_store(work.settings())
    version = VersionRef(2, (work.SEALED / "2.digest").read_text())
    plan = Plan((Step("shadow", 1.0, hold_s=3600),), Rules(min_requests=10**9), automatic=False)
    start_rollout(store, SYSTEM, NAME, version, plan)
    try:
        _wait_until_running(store)
        return _cost("shadow, p99", target, requests_per_s, work.SHADOW_OFF, lambda found: found.p99_ms)
    finally:
        roll_back(store, SYSTEM, NAME, live(store, NAME).revision, 1, "the benchmark is done")
        store.close()


def _cost(name: str, target: Target, requests_per_s: float, off: Path, judged: Callable[[Load], float]) -> Cost:
    pairs = [_pair(target, requests_per_s, off, judged, on_first=number % 2 == 1) for number in range(PAIRS)]
    off.unlink(missing_ok=True)
    log_ratios = np.log([with_it / without for with_it, without in pairs])
    interval = stats.bootstrap((log_ratios,), np.median, rng=np.random.default_rng(0)).confidence_interval
    percent, low, high = (float(100 * np.expm1(found)) for found in (np.median(log_ratios), *interval))
    with_ms, without_ms = np.median(pairs, axis=0)
    print(
        f"{name} at {requests_per_s:.0f} requests/s, {PAIRS} pairs: {percent:+.1f} % ({low:+.1f} to {high:+.1f} %); "
        f"medians {with_ms:.3f} against {without_ms:.3f} ms",
        file=sys.stderr,
    )
    return Cost(percent, low, high)


def _pair(
    target: Target, requests_per_s: float, off: Path, judged: Callable[[Load], float], on_first: bool
) -> tuple[float, float]:
    """With it, and without; who begins changes from pair to pair."""
    found: dict[bool, float] = {}
    for on in (on_first, not on_first):
        off.unlink(missing_ok=True) if on else off.touch()
        time.sleep(SWITCHED_AFTER_S)
        found[on] = judged(load(target, CLIENTS, SECONDS, pause_ms=1000 * CLIENTS / requests_per_s))
    return found[True], found[False]


def _wait_until_running(store: ControlStore) -> None:
    """Every replica has loaded the shadow and asks it."""
    deadline = time.monotonic() + 60
    while (rollout := live(store, NAME).rollout) is None or rollout.state != "running":
        if time.monotonic() > deadline:
            raise SystemExit("The shadow was not loaded within 60 s.")
        time.sleep(0.2)
    time.sleep(FOLLOWED_AFTER_S)
