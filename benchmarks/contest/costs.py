"""What the ledger and a shadow cost our endpoint, at a fixed rate of half its capacity.

With and without take turns every few seconds in the same replicas, so that what else the machine does falls on both.
"""

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from contest import work
from contest.load import Load, Target, load
from mlops_ray.governance.control_store import ControlStore, open_store
from mlops_ray.governance.events import SYSTEM
from mlops_ray.governance.live import Plan, Rules, Step, VersionRef, live
from mlops_ray.governance.rollback import roll_back
from mlops_ray.governance.rollouts import start_rollout

ROUNDS, TURNS, SECONDS, CLIENTS = 5, 9, 1, 64
SWITCHED_AFTER_S = 0.3
FOLLOWED_AFTER_S = 5.0
NAME = "flights"


@dataclass(frozen=True)
class Cost:
    """How much more with than without, in percent: the median of the rounds, the least and the greatest."""

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
    rounds = [_round(target, requests_per_s, off, judged) for _ in range(ROUNDS)]
    percents = [100 * (with_it / without - 1) for with_it, without in rounds]
    cost = Cost(statistics.median(percents), min(percents), max(percents))
    listed = ", ".join(f"{with_it:.3f} against {without:.3f} ms" for with_it, without in rounds)
    print(
        f"{name} at {requests_per_s:.0f} requests/s: {cost.percent:+.1f} % ({cost.low:+.1f} to {cost.high:+.1f} %): "
        f"{listed}",
        file=sys.stderr,
    )
    return cost


def _round(target: Target, requests_per_s: float, off: Path, judged: Callable[[Load], float]) -> tuple[float, float]:
    """The median of some turns with it, and of as many without; who begins changes from turn to turn."""
    found: dict[bool, list[float]] = {True: [], False: []}
    for turn in range(TURNS):
        for on in (True, False) if turn % 2 else (False, True):
            off.unlink(missing_ok=True) if on else off.touch()
            time.sleep(SWITCHED_AFTER_S)
            found[on].append(judged(load(target, CLIENTS, SECONDS, pause_ms=1000 * CLIENTS / requests_per_s)))
    off.unlink(missing_ok=True)
    return statistics.median(found[True]), statistics.median(found[False])


def _wait_until_running(store: ControlStore) -> None:
    """Every replica has loaded the shadow and asks it."""
    deadline = time.monotonic() + 60
    while (rollout := live(store, NAME).rollout) is None or rollout.state != "running":
        if time.monotonic() > deadline:
            raise SystemExit("The shadow was not loaded within 60 s.")
        time.sleep(0.2)
    time.sleep(FOLLOWED_AFTER_S)
