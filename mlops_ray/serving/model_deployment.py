"""The model in a deployment of its own: on a GPU, or because it is too large for every replica of the endpoint."""

import asyncio
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve.handle import DeploymentHandle

from mlops_ray.governance.live import VersionRef
from mlops_ray.registry.sealed_model import SealedModel, load
from mlops_ray.serving.http import DEADLINE_S

CALLS_AT_A_TIME = 32
KEPT_VERSIONS = 4


class ModelArgs(BaseModel):
    """What each replica of the model's own deployment takes, and how many there are."""

    model_config = ConfigDict(extra="forbid")

    num_cpus: float = Field(default=1, ge=0)
    num_gpus: float = Field(default=0, ge=0)
    min_replicas: int = Field(default=1, ge=1)
    max_replicas: int = Field(default=1, ge=1)


class RemoteModel:
    """Stands for a sealed model's session where the model runs elsewhere.

    Calls block, so make them from threads, up to `CALLS_AT_A_TIME` at once; `loop` is the replica's.
    """

    def __init__(self, handle: DeploymentHandle, version: VersionRef, loop: asyncio.AbstractEventLoop):
        self._handle, self._version, self._loop = handle, version, loop

    def probability(self, numbers: NDArray[np.float32], categories: NDArray[np.object_]) -> NDArray[np.float32]:
        """See `OnnxModel.probability`. Raises TimeoutError after the deadline of a request."""

        async def ask() -> Any:
            return await self._handle.probability.remote(self._version, numbers, categories)

        answer = asyncio.run_coroutine_threadsafe(ask(), self._loop).result(DEADLINE_S)
        return np.asarray(answer, dtype=np.float32)


@serve.deployment(name="model", health_check_period_s=5, graceful_shutdown_wait_loop_s=0.5)
class ModelDeployment:
    """Loads versions as they are asked for, each verified by its digest, and keeps the latest few."""

    def __init__(self, name: str, registry: Any):
        self._name, self._registry = name, registry
        self._loaded: dict[str, SealedModel] = {}
        self._one_at_a_time = asyncio.Lock()

    async def probability(
        self, version: VersionRef, numbers: NDArray[np.float32], categories: NDArray[np.object_]
    ) -> NDArray[np.float32]:
        """Probability for each row. Raises IntegrityError if the version does not fit its digest."""
        async with self._one_at_a_time:
            if version.digest not in self._loaded:
                self._loaded[version.digest] = await asyncio.to_thread(self._load, version)
                for oldest in list(self._loaded)[:-KEPT_VERSIONS]:
                    del self._loaded[oldest]
        return await asyncio.to_thread(self._loaded[version.digest].model.probability, numbers, categories)

    def _load(self, version: VersionRef) -> SealedModel:
        with tempfile.TemporaryDirectory(prefix="mlops-ray-model-") as folder:
            return load(self._registry.fetch(self._name, version, Path(folder)), version.digest)
