"""NannyML's drift calculators on each week of later.parquet, fitted on past.parquet; in an environment of its own.

    python benchmarks/drift/nannyml_weeks.py FOLDER

Prints the share of weeks in which any column was marked, and in which the reconstruction error of all was.
"""

import json
import sys
from pathlib import Path

import nannyml
import pandas as pd


def main(folder: Path) -> None:
    past, later = (pd.read_parquet(folder / f"{name}.parquet") for name in ("past", "later"))
    columns = [name for name in past.columns if name.startswith("x") or name == "c"]
    given = {"timestamp_column_name": "time", "chunk_period": "W"}
    univariate = nannyml.UnivariateDriftCalculator(column_names=columns, **given).fit(past)
    found = univariate.calculate(later).filter(period="analysis").to_df()
    marked = found.loc[:, [name for name in found.columns if name[-1] == "alert"]].any(axis=1)
    # Reconstruction needs all values.
    whole = [frame.dropna() for frame in (past, later)]
    joint = nannyml.DataReconstructionDriftCalculator(column_names=columns, **given).fit(whole[0])
    error = joint.calculate(whole[1]).filter(period="analysis").to_df()
    together = error.loc[:, [name for name in error.columns if name[-1] == "alert"]].any(axis=1)
    print(json.dumps({"nannyml_univariate": float(marked.mean()), "nannyml_multivariate": float(together.mean())}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
