"""Confusion: how many rows with each label got which prediction."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def counted(names: Sequence[str], labels: NDArray[np.intp], predicted: NDArray[np.intp]) -> dict[str, Any]:
    """labels, predicted: places in `names`, [rows]. See `Task.confusion`."""
    pairs = np.bincount(labels * len(names) + predicted, minlength=len(names) ** 2)
    return {"names": list(names), "rows": pairs.reshape(len(names), len(names)).tolist()}
