"""Work on a Ray of its own, in a control group of its own: what the meter says that it used, and what the kernel does.

`python work.py FOLDER GROUP SECONDS metered|plain`; prints one JSON object. GROUP is a folder of the kernel's, made by
who calls. Tasks of two steps share workers, fork, start programs, and one worker is killed at work.
"""

import json
import os
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

CPUS = 2


def kernel_s(group: Path) -> float:
    """CPU seconds of all that ever were in the group."""
    if (group / "cpuacct.usage").exists():
        return int((group / "cpuacct.usage").read_text()) / 1e9
    words = dict(line.split() for line in (group / "cpu.stat").read_text().splitlines())
    return int(words["usage_usec"]) / 1e6


def spin(seconds: float) -> None:
    ends = time.process_time() + seconds
    while time.process_time() < ends:
        sum(range(1000))


def task(seconds: float, how: str) -> int:
    if how == "fork":
        child = os.fork()
        if child == 0:
            spin(seconds)
            os._exit(0)
        os.waitpid(child, 0)
    elif how == "program":
        code = f"import time\nwhile time.process_time() < {seconds}: sum(range(1000))"
        subprocess.run([sys.executable, "-S", "-c", code], check=True)
    else:
        spin(seconds)
    if how == "killed":
        os.kill(os.getpid(), 9)
    return os.getpid()


def main(folder: str, group: Path, seconds: float, is_metered: bool) -> dict[str, Any]:
    (group / "cgroup.procs").write_text(str(os.getpid()))
    from mlops_ray.config import Settings
    from mlops_ray.cost.meter import Meter
    from mlops_ray.governance.control_store import open_store
    from mlops_ray.governance.usage import read_usage

    settings = Settings(state=folder, data=folder)
    store = open_store(settings)
    before_s = kernel_s(group)
    meter = Meter(store, settings, "work") if is_metered else None
    with meter or nullcontext():
        import ray

        ray.init("local", num_cpus=CPUS, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        remote = ray.remote(max_retries=0)(task)
        steps = {"first": ("spin", "fork", "program", "spin"), "second": ("spin", "program", "killed", "spin")}
        for name, hows in steps.items():
            with meter.step(name, name) if meter else nullcontext():
                ray.wait(waiting := [remote.remote(seconds / 4, how) for how in hows], num_returns=len(hows))
                del waiting
        ray.shutdown()
    rows = {row.name: row.quantities["cpu_s"] for row in read_usage(store, "work")}
    return {"kernel_s": kernel_s(group) - before_s, "measured_s": sum(rows.values()), "parts": rows}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]), sys.argv[4] == "metered")))
