"""What watching costs: an hour of 50,000 predictions a second, and 100 endpoints on one host.

How fast one process counts 100 features, 1,000, and 100 endpoints is in `monitoring.py` (`values_per_s`).
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

DRIFT = Path(__file__).parent / "drift"


def hour() -> Iterator[tuple[str, float, str]]:
    """See `drift/hour.py`. It needs 12 GB of disk and eight minutes of two cores."""
    found = _run("hour.py", "60")
    yield "hour_predictions", found["predictions"], "predictions, each counted once"
    yield "hour_lag_s", found["lag_s"], "s from the end of a segment to its commit, at most"
    yield "hour_cores_first", found["core_whole_first"], "cores for 100 features, in the first 40 s"
    yield "hour_cores_last", found["core_whole_last"], "cores for 100 features, in the last 40 s"
    yield "hour_cores_two_features_first", found["core_two_features_first"], "cores, in the first quarter"
    yield "hour_cores_two_features_last", found["core_two_features_last"], "cores, in the last quarter"
    yield "hour_peak_mb", found["peak_mb"], "MB, mapped files of identities among them"
    yield "hour_state_kb", found["state_kb"], "kB a commit"


def endpoints() -> Iterator[tuple[str, float, str]]:
    """See `drift/watchers.py`."""
    found = _run("watchers.py", "100")
    yield "endpoints", found["endpoints"], "endpoints of 100 features and 100 predictions a second"
    yield "endpoints_processes", found["processes"], "processes"
    yield "endpoints_mb", found["mb"], "MB, all processes together"
    yield "endpoints_cores", found["cores"], "cores"
    yield "endpoints_idle_turn_s", found["idle_turn_s"], "s of a core for a turn in which nothing is new"


def _run(script: str, *given: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, DRIFT / script, folder, *given]
        printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return dict(json.loads(printed.splitlines()[-1]))


PARTS = {"endpoints": endpoints, "hour": hour}
