"""One row through the scikit-learn pipeline, as a data frame, which is what its column transformer asks for.

BentoML's environment imports this file too, so it needs no more than scikit-learn, pandas and joblib.
"""

from collections.abc import Mapping
from typing import Any

import joblib
import pandas as pd

from serving import work


class PipelineRow:
    def __init__(self) -> None:
        self._pipeline = joblib.load(work.PIPELINE)
        facts = work.facts()
        self._dtypes = dict.fromkeys(facts["numbers"], "float64") | dict.fromkeys(facts["categories"], "object")

    def probability(self, features: Mapping[str, Any]) -> float:
        row = pd.DataFrame([features]).astype(self._dtypes)
        return float(self._pipeline.predict_proba(row)[0, 1])
