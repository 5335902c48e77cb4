"""The whole flights pipeline with serving and one prediction: from nothing, and again with nothing changed."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
AS_OF = "2014-01-01T05:00:00Z"


def figures() -> Iterator[tuple[str, float, str]]:
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        subprocess.run([sys.executable, ROOT / "use_cases" / "flights_raw_data.py", data], check=True)
        yield "seconds_cold", _seconds(Path(folder), data), "s"
        yield "seconds_cached", _seconds(Path(folder), data), "s"


def _seconds(folder: Path, data: Path) -> float:
    command = [Path(sys.executable).with_name("mlops-ray"), "run", "flights", "--serve", "--port", "18400"]
    started = time.monotonic()
    subprocess.run(
        [*command, "--state", folder / "state", "--data", data, "--as-of", AS_OF],
        cwd=ROOT,
        check=True,
        stdout=sys.stderr,
    )
    return time.monotonic() - started
