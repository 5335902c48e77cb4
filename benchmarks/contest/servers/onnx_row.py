"""One row through the ONNX file of the sealed model, with one thread a process, as our endpoint runs it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime

from contest import work


class OnnxRow:
    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(work.ONNX), options, providers=["CPUExecutionProvider"])
        facts = work.facts()
        self._numbers, self._categories = facts["numbers"], facts["categories"]

    def probability(self, features: Mapping[str, Any]) -> float:
        numbers = np.array([[features[name] for name in self._numbers]], dtype=np.float32)
        categories = np.array([[features[name] for name in self._categories]], dtype=object)
        given = {"numbers": numbers, "categories": categories}
        return float(self._session.run(["probability"], given)[0][0])
