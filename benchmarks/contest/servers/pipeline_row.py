"""One row through the scikit-learn pipeline, as a data frame, which is what its column transformer asks for.

BentoML's environment imports this file too, so it needs no more than scikit-learn, pandas and joblib.
"""

from collections.abc import Mapping
from typing import Any

import joblib
import numpy as np
import pandas as pd

from contest import work


class PipelineRow:
    def __init__(self) -> None:
        self._pipeline = joblib.load(work.PIPELINE)
        facts = work.facts()
        self._numbers, self._categories = facts["numbers"], facts["categories"]

    def probability(self, features: Mapping[str, Any]) -> float:
        # A frame from two matrices takes 0.2 ms; one from a dictionary, with its columns' types set, 3.5 ms.
        numbers = np.array([[features[name] for name in self._numbers]], dtype=np.float32)
        categories = np.array([[features[name] for name in self._categories]], dtype=object)
        frames = [pd.DataFrame(numbers, columns=self._numbers), pd.DataFrame(categories, columns=self._categories)]
        return float(self._pipeline.predict_proba(pd.concat(frames, axis=1))[0, 1])
