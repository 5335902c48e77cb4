"""What may go wrong on a fleet. Each fault begins, is seen to do what it is for, and ends; all is written down."""

import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.fleet import PORT, Fleet, set_clock
from tests.chaos.hosts import GCS_PORT, OUTSIDE, Host, listens, wait_until

SEEN_WITHIN_S = 30.0
SLOW_S, SLOW_FOR_S = 0.3, 20.0
HOUR_S = 3600

Seen = Callable[[], bool]


@dataclass(frozen=True)
class Fault:
    """begin: does it, and gives by what it is seen to have fired. hold_s: how long it lasts. end: undoes it, which for
    what is killed is a supervisor's work. touches: what it is done to: faults that share something do not go together.
    """

    name: str
    hold_s: float
    begin: Callable[[Fleet], Seen]
    end: Callable[[Fleet], None]
    touches: str

    def carry_out(self, fleet: Fleet) -> None:
        fleet.history.write("fault begun", fault=self.name)
        began_s, seen = time.monotonic(), self.begin(fleet)
        try:
            wait_until(seen, SEEN_WITHIN_S, f"{self.name} is seen")
            fleet.history.write("fault seen", fault=self.name)
            time.sleep(max(0.0, self.hold_s - (time.monotonic() - began_s)))
        finally:
            self.end(fleet)
        fleet.history.write("fault ended", fault=self.name)


def _kill(host: Host, name: str) -> Seen:
    """Whether all that had the name is gone. What is being started again, as a raylet that GCS had given up, is waited
    for: a fault that hits nothing is none."""
    wait_until(lambda: bool(host.pids(name)), 2 * SEEN_WITHIN_S, f"{host.name} has {name}")
    pids = host.pids(name)
    host.signal(signal.SIGKILL, name)
    return lambda: not any(_lives(pid) for pid in pids)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _nothing(fleet: Fleet) -> None:
    """Whoever supervises starts it again."""


def kill_raylet(fleet: Fleet) -> Seen:
    return _kill(fleet.workers[0], "raylet/raylet")


def kill_head(fleet: Fleet) -> Seen:
    """All of that host's processes at once."""
    fleet.head.held.set()
    gone = _kill(fleet.head, "")
    return lambda: gone() and not listens(fleet.head.address, GCS_PORT)


def release_head(fleet: Fleet) -> None:
    fleet.head.held.clear()


def kill_gcs(fleet: Fleet) -> Seen:
    """`ray start --block` ends with it, so the head is away with its tables until it is released."""
    fleet.head.held.set()
    gone = _kill(fleet.head, "gcs_server")
    return lambda: gone() and not listens(fleet.head.address, GCS_PORT)


def cut_off(fleet: Fleet) -> Seen:
    host = fleet.workers[0]
    host.cut()
    return lambda: not listens(host.address, PORT)


def plug_in(fleet: Fleet) -> None:
    fleet.workers[0].restore()


def fill_disk(fleet: Fleet) -> Seen:
    """To the last byte. Seen: a file takes no byte more, and the replica of that host refuses."""
    host = fleet.workers[0]
    filling = host.own_disk / "filling"
    with filling.open("wb", buffering=0) as file:
        for size in (4096, 1):
            try:
                while file.write(b"x" * size):
                    pass
            except OSError:
                continue
    full = filling.stat().st_size
    return lambda: full > 0 and not fleet.answers(host)


def clear_disk(fleet: Fleet) -> None:
    (fleet.workers[0].own_disk / "filling").unlink()


def set_clock_ahead(fleet: Fleet) -> Seen:
    """While all runs. Seen: a process of that host tells another time than this one."""
    set_clock(fleet.folder, HOUR_S)
    return lambda: _clock_of(fleet.workers[1]) - time.time() > 0.9 * HOUR_S


def set_clock_right(fleet: Fleet) -> None:
    """Which sets it back, so the node ends by itself and is started again; Ray drains it for half a minute before."""
    host = fleet.workers[1]
    before = host.restarts
    set_clock(fleet.folder, 0)
    wait_until(lambda: host.restarts > before, 2 * SEEN_WITHIN_S, "the node whose clock was set back is started again")


def _clock_of(host: Host) -> float:
    process = host.start(sys.executable, "-c", "import time; print(time.time())", stdout=subprocess.PIPE)
    said, _ = process.communicate(timeout=20)
    return float(said)


def kill_primary(fleet: Fleet) -> Seen:
    port = fleet.pair.primary
    fleet.pair.kill_primary()
    return lambda: not listens(OUTSIDE, port)


def fail_over(fleet: Fleet) -> None:
    """What is committed is compared by the checker: the chain of events has all that callers were told of."""
    fleet.pair.promote()
    fleet.pair.attach()


def refuse_store(fleet: Fleet) -> Seen:
    before = fleet.line.refused
    fleet.line.refuse()
    return lambda: fleet.line.refused > before


def slow_store(fleet: Fleet) -> None:
    fleet.line.restore(SLOW_S)
    time.sleep(SLOW_FOR_S)
    fleet.line.restore()


FAULTS = (
    Fault("raylet of a worker killed", 5, kill_raylet, _nothing, "first worker"),
    Fault("head killed", 5, kill_head, release_head, "head"),
    Fault("GCS killed for 30 s", 30, kill_gcs, release_head, "head"),
    Fault("worker cut off for 60 s", 60, cut_off, plug_in, "first worker"),
    Fault("disk of a worker full", 20, fill_disk, clear_disk, "first worker"),
    Fault("clock of a worker an hour ahead", 30, set_clock_ahead, set_clock_right, "second worker"),
    Fault("PostgreSQL failed over", 5, kill_primary, fail_over, "control store"),
    Fault("object store refuses for 60 s, then is slow", 60, refuse_store, slow_store, "object store"),
)


def some_at_once(fleet: Fleet, choose: random.Random, number: int = 3) -> list[str]:
    """Faults that share nothing, begun together; their names. Raises what one of them raised."""
    possible, chosen, failed = list(FAULTS), [], []
    while len(chosen) < number:
        chosen.append(choose.choice(possible))
        possible = [one for one in possible if one.touches not in {fault.touches for fault in chosen}]

    def carry_out(fault: Fault) -> None:
        try:
            fault.carry_out(fleet)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=carry_out, args=(fault,)) for fault in chosen]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return [fault.name for fault in chosen]
