"""Evidently's drift preset on each week of later.parquet against past.parquet; in an environment of its own.

    python benchmarks/drift/evidently_weeks.py FOLDER

Prints what is marked in each week: "all" where the data set drifted by its rule, and beside it each drifted column.
"""

import json
import sys
from pathlib import Path

import pandas as pd
from evidently import DataDefinition, Dataset, Report
from evidently.presets import DataDriftPreset
from evidently_side import drifted


def main(folder: Path) -> None:
    past, later = (pd.read_parquet(folder / f"{name}.parquet") for name in ("past", "later"))
    numbers = [name for name in past.columns if name.startswith("x")]
    definition = DataDefinition(numerical_columns=numbers, categorical_columns=["c"])
    old = Dataset.from_pandas(past[[*numbers, "c"]], definition)
    by_rule, any_column = [], []
    for _, week in later.groupby((later["time"] - later["time"].min()).dt.days // 7):
        new = Dataset.from_pandas(week[[*numbers, "c"]], definition)
        empty = [name for name in numbers if week[name].isna().all()]
        if empty:  # it raises ValueError: a person notices
            by_rule.append(["all"])
            any_column.append(empty)
            continue
        columns = drifted(Report([DataDriftPreset()]).run(new, old).dict())
        by_rule.append(["all"] if 2 * len(columns) >= len(numbers) + 1 else [])
        any_column.append(columns)
    print(json.dumps({"evidently": by_rule, "evidently_any_column": any_column}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
