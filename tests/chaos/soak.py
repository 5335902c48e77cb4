"""A soak: a fleet under load for as long as is wanted, with a fault every few minutes: python -m tests.chaos.soak
--minutes 120 --faults-every 5 [--at-once 3] [--seed 0] [--folder FOLDER]. Ends with 1 where something is wrong.

Memory, file descriptors, processes and state are looked at every few seconds. Judged is what was seen while all was
whole, after a third of the time (until then caches fill). A process that a fault ends takes its memory with it, so the
growth of memory is that of each process by itself, of those that lived for longest in each role.
"""

import argparse
import random
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

from tests.chaos.faults import some_at_once
from tests.chaos.fleet import BACK_S, BUCKET, Fleet, bucket_client, fleet
from tests.chaos.hosts import OUTSIDE, Host
from tests.chaos.store_pair import Line

WARM_UP = 1 / 3
LOOK_S = 5.0
LEAST_LOOKS = 5
MAX_GROWTH_PERCENT_H = 1.0
JUDGED_FROM_MINUTES = 60.0  # before, what one page more makes in an hour is above the limit
LEAST_LIFE_S = 1800.0  # in ten minutes, which is a life where the head is killed, 1 %/h of a GCS is 100 kB
MAX_MORE_FILES = 1.1
MAX_BYTES_PER_PREDICTION = 400.0
ROLES = ("ServeReplica", "ServeController", "ProxyActor", "DriftActor", "GovernorActor", "gcs_server", "raylet/raylet",
         "haproxy")  # fmt: skip


Points = list[tuple[float, int, int]]  # when, resident bytes, open files


@dataclass
class Seen:
    """By process (its role, and pid with the moment of its start) what was seen of it, while all was whole."""

    processes: dict[tuple[str, str], Points] = field(default_factory=lambda: defaultdict(list))
    orphans: set[str] = field(default_factory=set)
    alone: set[str] = field(default_factory=set)  # at the last look: what watches HAProxy ends half a second after it
    whole: threading.Event = field(default_factory=threading.Event)


def role_of(command: str) -> str:
    return next((role for role in ROLES if role in command), "other")


def look(found: Fleet, seen: Seen, moment_s: float) -> None:
    """An orphan has nobody of its host's node above it, and had not at the look before."""
    before, seen.alone = seen.alone, set()
    for host in (found.head, *found.workers):
        ours = {process.pid for process in host.processes if process.poll() is None}
        for pid in host.pids():
            try:
                process = psutil.Process(pid)
                command, parents = " ".join(process.cmdline()), {one.pid for one in process.parents()}
                key = role_of(command), f"{pid} {process.create_time()}"
                seen.processes[key].append((moment_s, process.memory_info().rss, process.num_fds()))
                if pid not in ours and not parents & ours:
                    seen.alone.add(key[1])
                    if key[1] in before:
                        seen.orphans.add(f"{host.name}: {command[:80]}")
            except psutil.Error:
                continue


@contextmanager
def looking(found: Fleet, began_s: float) -> Iterator[Seen]:
    seen, ending = Seen(), threading.Event()

    def follow() -> None:
        while not ending.wait(LOOK_S):
            if seen.whole.is_set():
                look(found, seen, time.monotonic() - began_s)

    thread = threading.Thread(target=follow, name="soak")
    thread.start()
    try:
        yield seen
    finally:
        ending.set()
        thread.join()


def growth_percent_h(points: Points) -> float:
    """Of resident memory, by the line through all points (least squares), of what it was in the middle."""
    at_s, bytes_, _ = np.array(points, float).T
    slope, _ = np.polyfit(at_s, bytes_, 1)
    return float(100 * slope * 3600 / np.median(bytes_))


def settled(points: Points) -> Points:
    """Without the first third of its life."""
    first_s, last_s = points[0][0], points[-1][0]
    return [one for one in points if one[0] >= first_s + WARM_UP * (last_s - first_s)]


def judge(seen: Seen, minutes: float) -> list[str]:
    """What is not as it must be. Of each role the lives of at least half of the longest are looked at."""
    problems = [f"an orphan: {one}" for one in sorted(seen.orphans)]
    for role in ROLES:
        lives = [points for (name, _), points in seen.processes.items() if name == role]
        longest_s = max((points[-1][0] - points[0][0] for points in lives), default=0.0)
        long = [settled(points) for points in lives if points[-1][0] - points[0][0] >= longest_s / 2]
        long = [points for points in long if len(points) >= LEAST_LOOKS]
        if not long:
            print(f"soak: {role}: lived too shortly to tell")
        for points in long:
            growth, files = growth_percent_h(points), [one[2] for one in points]
            print(
                f"soak: {role}: {points[-1][1] / 2**20:.0f} MiB, {growth:+.1f} %/h over "
                f"{(points[-1][0] - points[0][0]) / 60:.1f} min, {files[0]} to {files[-1]} files"
            )
            told = minutes >= JUDGED_FROM_MINUTES and points[-1][0] - points[0][0] >= LEAST_LIFE_S
            if told and growth > MAX_GROWTH_PERCENT_H:
                problems.append(f"{role} grows by {growth:.1f} %/h (limit {MAX_GROWTH_PERCENT_H:g})")
            if np.median(files[len(files) // 2 :]) > MAX_MORE_FILES * np.median(files[: len(files) // 2]) + 5:
                problems.append(f"{role} opens files: {files[0]} to {files[-1]}")
    return problems


def state_of(found: Fleet) -> dict[str, float]:
    """MB of what grows: the ledger with the drift state, the control store, Ray's sessions, and the workers' disks."""
    folder = found.folder
    hosts: list[Host] = [found.head, *found.workers]
    return {
        "artifacts": stored_bytes(found.line) / 1e6,
        "control store": int(found.pair.ask("SELECT pg_database_size('postgres')")) / 1e6,
        "ray sessions": sum(_size(host.sessions) for host in hosts) / 1e6,
        "ledger_wal": sum(_size(host.own_disk) for host in hosts) / 1e6,
        "state folder": sum(file.stat().st_size for file in folder.glob("*") if file.is_file()) / 1e6,
    }


def stored_bytes(line: Line) -> int:
    """Of all objects in the store."""
    pages = bucket_client(OUTSIDE, line.port).get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
    return sum(one["Size"] for page in pages for one in page.get("Contents", []))


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def main(minutes: float, every_minutes: float, at_once: int, seed: int, folder: Path) -> list[str]:
    choose, began_s = random.Random(seed), time.monotonic()
    with fleet(folder) as found, looking(found, time.monotonic()) as seen:
        before = state_of(found)
        end_s = time.monotonic() + 60 * minutes
        with found.called():
            while time.monotonic() < end_s:
                seen.whole.set()
                time.sleep(min(60 * every_minutes, max(0.0, end_s - time.monotonic())))
                if time.monotonic() >= end_s:
                    break
                seen.whole.clear()
                found.alarm()
                names = some_at_once(found, choose, at_once)
                print(f"soak: {names}, whole after {found.expect_back(at_once * BACK_S):.1f} s", flush=True)
        found.settle()
        problems = [*found.problems(), *judge(seen, minutes)]
        after, given = state_of(found), len(found.given())
    for name, mb in after.items():
        print(f"soak: {name}: {before[name]:.1f} to {mb:.1f} MB")
    each = 1e6 * (after["artifacts"] - before["artifacts"]) / max(1, given)
    took_min = (time.monotonic() - began_s) / 60
    print(f"soak: {given:,} predictions in {took_min:.1f} min, {each:.0f} bytes of artifacts each")
    if each > MAX_BYTES_PER_PREDICTION:
        problems.append(f"{each:.0f} bytes of artifacts for each prediction (limit {MAX_BYTES_PER_PREDICTION:g})")
    return problems


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--faults-every", type=float, default=5)
    parser.add_argument("--at-once", type=int, default=1, choices=(1, 2, 3))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    place = given.folder or Path(tempfile.mkdtemp(prefix="mlops-ray-soak-"))
    place.mkdir(parents=True, exist_ok=True)
    wrong = main(given.minutes, given.faults_every, given.at_once, given.seed, place)
    print("\n".join(f"WRONG: {one}" for one in wrong) or "soak: all as it must be")
    sys.exit(bool(wrong))
