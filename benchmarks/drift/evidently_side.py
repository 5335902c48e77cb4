"""Evidently's drift preset on the same windows; runs in an environment of its own, with pandas below 3.

    python benchmarks/drift/evidently_side.py FOLDER

FOLDER has reference.parquet and window_*.parquet. Prints one JSON line for each window: seconds, with the reference
prepared before, and drifted columns.
"""

import json
import re
import sys
import time
from pathlib import Path

import pandas as pd
from evidently import DataDefinition, Dataset, Report
from evidently.presets import DataDriftPreset

METHOD = re.compile(r"ValueDrift\(column=(.*),method=(.*),threshold=(.*)\)")


def main(folder: Path) -> None:
    reference = pd.read_parquet(folder / "reference.parquet")
    numbers = [name for name in reference.columns if reference[name].dtype.kind in "iuf"]
    texts = [name for name in reference.columns if name not in numbers]
    definition = DataDefinition(numerical_columns=numbers, categorical_columns=texts)
    old = Dataset.from_pandas(reference, definition)
    for path in sorted(folder.glob("window_*.parquet")):
        window = pd.read_parquet(path)
        started = time.perf_counter()
        new = Dataset.from_pandas(window, definition)
        result = Report([DataDriftPreset()]).run(new, old).dict()
        seconds = time.perf_counter() - started
        print(json.dumps({"window": path.stem, "seconds": seconds, "columns": drifted(result)}), flush=True)


def drifted(result: dict) -> list[str]:
    """Columns beyond their threshold: a distance above it, or a p-value below it."""
    found = []
    for metric in result["metrics"]:
        match = METHOD.fullmatch(metric["metric_name"])
        if match:
            column, method, threshold = match.groups()
            value, limit = float(metric["value"]), float(threshold)
            if value < limit if "p_value" in method else value >= limit:
                found.append(column)
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]))
