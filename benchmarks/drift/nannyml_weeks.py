"""NannyML's calculators on each week of later.parquet, fitted on past.parquet; in an environment of its own.

    python benchmarks/drift/nannyml_weeks.py FOLDER

Prints what is marked in each week: the columns whose distributions left their limits, and "all" where the
reconstruction error or the ROC AUC did.
"""

import json
import sys
from pathlib import Path
from typing import Any

import nannyml
import pandas as pd

CHUNKS = {"timestamp_column_name": "time", "chunk_period": "W"}


def main(folder: Path) -> None:
    past, later = (pd.read_parquet(folder / f"{name}.parquet") for name in ("past", "later"))
    columns = [name for name in past.columns if name.startswith("x") or name == "c"]
    for rows in (past, later):
        rows["answer"] = (rows["probability"] > 0.5).astype(int)
        rows["label"] = rows["label"].astype(int)
    single = marked(nannyml.UnivariateDriftCalculator(column_names=columns, **CHUNKS), past, later)
    # Reconstruction needs all values.
    whole = [frame.dropna() if len(frame.dropna()) else frame.fillna(0) for frame in (past, later)]
    joint = marked(nannyml.DataReconstructionDriftCalculator(column_names=columns, **CHUNKS), *whole)
    quality = nannyml.PerformanceCalculator(
        y_true="label", y_pred="answer", y_pred_proba="probability", problem_type="classification_binary",
        metrics=["roc_auc"], **CHUNKS,
    )  # fmt: skip
    right = marked(quality, past, later)
    print(json.dumps({
        "nannyml_univariate": [[name for name in columns if name in week] for week in single],
        "nannyml_multivariate": [["all"] if week else [] for week in joint],
        "nannyml_performance": [["all"] if week else [] for week in right],
    }))  # fmt: skip


def marked(calculator: Any, past: pd.DataFrame, later: pd.DataFrame) -> list[list[str]]:
    """Of each week, the first parts of the names of what left its limits."""
    found = calculator.fit(past).calculate(later).filter(period="analysis").to_df()
    alerts = found.loc[:, [name for name in found.columns if name[-1] == "alert"]]
    return [[name[0] for name, alert in row.items() if alert] for _, row in alerts.iterrows()]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
