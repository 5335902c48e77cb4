"""A fleet of three hosts under 30 requests a second and one fault after another: what was answered lies in the ledger
once and is counted once, the audit chain is whole, each event is delivered, each retraining is one.

CHAOS_MINUTES: how long three faults at once go on, 20 by default; CHAOS_SEED chooses them.
"""

import os
import random
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.chaos.check_history import read_lines
from tests.chaos.faults import FAULTS, Fault, some_at_once
from tests.chaos.fleet import Fleet, fleet

MINUTES, SEED = float(os.environ.get("CHAOS_MINUTES", "20")), int(os.environ.get("CHAOS_SEED", "0"))
CALM_S = 5.0


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet(tmp_path_factory.mktemp("fleet")) as made:
        yield made


@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "-"))
def test_a_fault_loses_doubles_and_breaks_nothing(hosts: Fleet, fault: Fault) -> None:
    if "clock" in fault.name and not (hosts.folder / "clock_ahead.so").exists():
        pytest.skip("there is no gcc for tests/chaos/clock_ahead.c")
    began = time.time()
    with hosts.called():
        time.sleep(CALM_S)
        hosts.alarm()
        fault.carry_out(hosts)
        took_s = hosts.expect_back()
        time.sleep(CALM_S)
    counted_s = hosts.settle()
    print(f"\n{fault.name}: whole {took_s:.1f} s after its end, counted {counted_s:.1f} s after the last request")
    print(answers_since(hosts, began))
    assert hosts.problems() == []


def answers_since(hosts: Fleet, began: float) -> str:
    """How requests ended, by host: those that began in a fault, with what."""
    lines = [line for line in read_lines(hosts.history.file) if line["at"] > began]
    host = {line["id"]: line["url"].split(":")[1][2:] for line in lines if line["what"] == "asked"}
    ended = [line for line in lines if line["what"] in ("answered", "unanswered")]
    kinds = Counter(f"{host.get(line['id'])}: {line.get('status') or line['error']}" for line in ended)
    return ", ".join(f"{kind} {count} times" for kind, count in sorted(kinds.items()))


@pytest.mark.timeout(MINUTES * 60 + 900)
def test_three_faults_at_once_again_and_again(hosts: Fleet) -> None:
    choose, until_s, began = random.Random(SEED), time.monotonic() + 60 * MINUTES, time.time()
    with hosts.called():
        while time.monotonic() < until_s:
            hosts.alarm()
            names = some_at_once(hosts, choose)
            print(f"\n{names}: whole after {hosts.expect_back(2 * 90):.1f} s")
            time.sleep(CALM_S)
    counted_s = hosts.settle(2 * 90)
    print(f"counted {counted_s:.1f} s after the last request; {answers_since(hosts, began)}")
    assert hosts.problems() == []
