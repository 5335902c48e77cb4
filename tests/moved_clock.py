"""A wall clock for processes that tests start, which tests set while they run."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.pipeline_run import ROOT


def moved_clock(folder: Path) -> tuple[Callable[[int], None], dict[str, str]]:
    """What sets it, to seconds ahead of the machine's, and the variables of a process that shall have it. Skips
    the test where there is no compiler."""
    if shutil.which("gcc") is None:
        pytest.skip("there is no gcc for tests/chaos/clock_ahead.c")
    source, library, file = ROOT / "tests" / "chaos" / "clock_ahead.c", folder / "ahead.so", folder / "ahead"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)

    def set_clock(ahead_s: int) -> None:
        with file.open("r+b" if file.exists() else "wb") as opened:  # the same file, which is mapped
            opened.write(ahead_s.to_bytes(8, sys.byteorder, signed=True))

    set_clock(0)
    return set_clock, {"LD_PRELOAD": str(library), "CLOCK_AHEAD": str(file)}
