"""ydata-profiling on the same rows; runs in an environment of its own.

    python benchmarks/profiles/ydata_side.py FILE.parquet

Prints the seconds that its profile takes in its `minimal` mode, the fastest it has, without the page.
"""

import sys
import time
from pathlib import Path

import pandas as pd
from ydata_profiling import ProfileReport


def main(file: Path) -> None:
    rows = pd.read_parquet(file)
    started = time.perf_counter()
    ProfileReport(rows, minimal=True, progress_bar=False).get_description()
    print(time.perf_counter() - started)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
