"""What the ledger and a shadow cost our endpoint, at a fixed rate of half its capacity.

With and without take turns in the same replicas, so that what else the machine does falls on both.
"""

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from contest import work
from contest.load import Load, Target, load
from mlops_ray.governance.control_store import ControlStore, open_store
from mlops_ray.governance.events import SYSTEM
from mlops_ray.governance.live import Plan, Rules, Step, VersionRef, live, roll_back, start_rollout

ROUNDS, SECONDS, CLIENTS = 5, 10, 64
REACHED_AFTER_S = 5.0
NAME = "flights"


@dataclass(frozen=True)
class Cost:
    """How much more with than without, in percent: the median of the rounds, the least and the greatest."""

    percent: float
    low: float
    high: float


def ledger_cost(target: Target, requests_per_s: float) -> Cost:
    """On the p50."""

    def switch(on: bool) -> None:
        if on:
            work.LEDGER_OFF.unlink(missing_ok=True)
        else:
            work.LEDGER_OFF.touch()
        time.sleep(1.5)

    try:
        return _cost("ledger, p50", target, requests_per_s, switch, lambda found: found.p50_ms)
    finally:
        work.LEDGER_OFF.unlink(missing_ok=True)


def shadow_cost(target: Target, requests_per_s: float) -> Cost:
    """Of mirroring every request to a second version, on the p99."""
    store = open_store(work.settings())
    version = VersionRef(2, (work.SEALED / "2.digest").read_text())
    plan = Plan((Step("shadow", 1.0, hold_s=3600),), Rules(min_requests=10**9), automatic=False)

    def switch(on: bool) -> None:
        if on:
            start_rollout(store, SYSTEM, NAME, version, plan)
            _wait_until_running(store)
        elif live(store, NAME).rollout:
            roll_back(store, SYSTEM, NAME, live(store, NAME), "the benchmark measures without it")
        time.sleep(REACHED_AFTER_S)

    try:
        return _cost("shadow, p99", target, requests_per_s, switch, lambda found: found.p99_ms)
    finally:
        switch(False)
        store.close()


def _cost(
    name: str, target: Target, requests_per_s: float, switch: Callable[[bool], None], judged: Callable[[Load], float]
) -> Cost:
    percents = []
    for number in range(ROUNDS):
        found = {}
        for on in (True, False) if number % 2 else (False, True):
            switch(on)
            found[on] = load(target, CLIENTS, SECONDS, pause_ms=1000 * CLIENTS / requests_per_s)
        percents.append(100 * (judged(found[True]) / judged(found[False]) - 1))
        print(f"{name}: with {found[True]}, without {found[False]}, {percents[-1]:+.1f} %", file=sys.stderr)
    cost = Cost(statistics.median(percents), min(percents), max(percents))
    print(f"{name}: {cost.percent:+.1f} % ({cost.low:+.1f} to {cost.high:+.1f} %)", file=sys.stderr)
    return cost


def _wait_until_running(store: ControlStore) -> None:
    """Every replica has loaded the shadow."""
    deadline = time.monotonic() + 60
    while (rollout := live(store, NAME).rollout) is None or rollout.state != "running":
        if time.monotonic() > deadline:
            raise SystemExit("The shadow was not loaded within 60 s.")
        time.sleep(0.2)
