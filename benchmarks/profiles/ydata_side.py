"""ydata-profiling on the same rows; runs in an environment of its own.

    python benchmarks/profiles/ydata_side.py FILE.parquet default|minimal

Prints the seconds that its profile takes without the page: with its defaults, or in its `minimal` mode.
"""

import sys
import time
from pathlib import Path

import pandas as pd
from ydata_profiling import ProfileReport


def main(file: Path, mode: str) -> None:
    rows = pd.read_parquet(file)
    started = time.perf_counter()
    ProfileReport(rows, minimal=mode == "minimal", progress_bar=False).get_description()
    print(time.perf_counter() - started)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
