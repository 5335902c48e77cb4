"""What finished trials answered to the validation period, kept for the average of the best of them."""

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlops_ray.artifacts import Artifacts


@dataclass(frozen=True)
class KeptAnswers:
    """Below the artifact root, one file for each trial, so that an attempt after a kill finds those of before."""

    root: str
    use_case: str
    key: str

    def write(self, trial_id: str, answer: NDArray[np.float64]) -> None:
        content = io.BytesIO()
        np.save(content, answer, allow_pickle=False)
        Artifacts(self.root).write_bytes(content.getvalue(), "searches", self.use_case, self.key, f"{trial_id}.npy")

    def read(self, trial_id: str) -> NDArray[np.float64]:
        content = Artifacts(self.root).read_bytes("searches", self.use_case, self.key, f"{trial_id}.npy")
        answer: NDArray[np.float64] = np.load(io.BytesIO(content), allow_pickle=False)
        return answer
