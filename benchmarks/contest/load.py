"""Load: what wrk, a process of its own, measures of an endpoint on this machine."""

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

SCRIPT = Path(__file__).with_name("rows.lua")


@dataclass(frozen=True)
class Target:
    """An endpoint and what it is asked: the lines of `rows`, one a request. authorization: a header, "" for none."""

    url: str
    rows: Path
    authorization: str = ""


@dataclass(frozen=True)
class Load:
    requests_per_s: float
    p50_ms: float
    p99_ms: float


def expect_wrk() -> None:
    if shutil.which("wrk") is None:
        raise SystemExit("The load generator wrk is missing. Install it (Debian: apt-get install wrk).")


def load(target: Target, clients: int, seconds: float, pause_ms: float = 0) -> Load:
    """Ask with so many clients, each as soon as it is answered and has paused (`pause_ms` on average).

    Every answer must be 2xx, and no connection may break: anything else is no measurement, and ends the benchmark.
    """
    command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds:.0f}s", "--timeout", "10s", "-s", SCRIPT, target.url, "--"]
    done = subprocess.run(
        [*command, target.rows, target.authorization, str(pause_ms)], check=True, capture_output=True, text=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    if found["refused"] or found["broken"] or not found["requests"]:
        raise SystemExit(
            f"{target.url}: of {found['requests']} requests {found['refused']} were refused and {found['broken']} "
            f"broke. A measurement needs every answer."
        )
    return Load(found["requests"] / found["seconds"], found["p50_ms"], found["p99_ms"])
