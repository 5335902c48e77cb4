"""The model in a deployment of its own: on a GPU, or because it is too large for every replica of the endpoint."""

import asyncio
import tempfile
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve.handle import DeploymentHandle

from mlops_ray.config import Settings
from mlops_ray.cost.service import ServiceMeter
from mlops_ray.cost.work import Work
from mlops_ray.governance.control_store import open_store
from mlops_ray.governance.live import VersionRef
from mlops_ray.registry.sealed_model import SealedModel, load
from mlops_ray.serving.environment import SERVING_CPUS
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

    def answers(self, numbers: NDArray[np.float32], categories: NDArray[np.object_]) -> NDArray[np.float32]:
        """See `OnnxModel.answers`. Raises TimeoutError after the deadline of a request."""

        async def ask() -> Any:
            return await self._handle.probability.remote(self._version, numbers, categories)

        asked = asyncio.run_coroutine_threadsafe(ask(), self._loop)
        try:
            return np.asarray(asked.result(DEADLINE_S), dtype=np.float32)
        finally:
            asked.cancel()  # nobody waits for it any more, here or there


class _Loaded:
    """A version with threads of its own: one that hangs takes none of another's."""

    def __init__(self, load: Callable[[], SealedModel]):
        self._threads = ThreadPoolExecutor(CALLS_AT_A_TIME, thread_name_prefix="model")
        self._sealed = asyncio.wrap_future(self._threads.submit(load))

    async def answers(self, numbers: NDArray[np.float32], categories: NDArray[np.object_]) -> NDArray[np.float32]:
        sealed = await asyncio.shield(self._sealed)  # the others who wait for it are not cancelled with this one
        pending = self._threads.submit(sealed.model.answers, numbers, categories)
        return await asyncio.wrap_future(pending)

    def has_failed(self) -> bool:
        return self._sealed.done() and self._sealed.exception() is not None

    def close(self) -> None:
        self._threads.shutdown(wait=False)


# Serve lets five calls in by default: as many of a version that hangs would keep all others out.
@serve.deployment(
    name="model", health_check_period_s=5, graceful_shutdown_wait_loop_s=0.5, max_ongoing_requests=8 * CALLS_AT_A_TIME
)
class ModelDeployment:
    """Loads versions as they are asked for, each verified by its digest, and keeps those that were asked last.

    No version waits for another, neither to be loaded nor to answer. settings: of where what it uses is written; None
    outside of Ray.
    """

    def __init__(self, name: str, registry: Any, settings: Settings | None = None):
        self._name, self._registry, self._calls = name, registry, 0
        if settings is not None:
            self._begin_meter(settings)
        self._loaded: OrderedDict[str, _Loaded] = OrderedDict()

    async def probability(
        self, version: VersionRef, numbers: NDArray[np.float32], categories: NDArray[np.object_]
    ) -> NDArray[np.float32]:
        """The answer to each row, of any task: replicas of before and after an upgrade ask each other by this name.

        Raises IntegrityError if the version does not fit its digest.
        """
        self._calls += 1
        held = self._loaded.get(version.digest)
        if held is None or held.has_failed():
            held = self._loaded[version.digest] = _Loaded(lambda: self._load(version))
        self._loaded.move_to_end(version.digest)
        while len(self._loaded) > KEPT_VERSIONS:
            self._loaded.popitem(last=False)[1].close()
        return await held.answers(numbers, categories)

    def _begin_meter(self, settings: Settings) -> None:
        asked = ray.get_runtime_context().get_assigned_resources()
        work = Work(asked.get("CPU", 0.0) + asked.get(SERVING_CPUS, 0.0), int(asked.get("memory", 0)))
        calls, gpus = lambda: {self._name: self._calls}, asked.get("GPU", 0.0)
        ServiceMeter(open_store(settings), settings, "model", calls, work, gpus).begin()

    def _load(self, version: VersionRef) -> SealedModel:
        with tempfile.TemporaryDirectory(prefix="mlops-ray-model-") as folder:
            return load(self._registry.fetch(self._name, version, Path(folder)), version.digest)
