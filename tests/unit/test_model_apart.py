"""A model in a deployment of its own: no version waits for another, and the one that is asked is not dropped."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlops_ray.errors import IntegrityError
from mlops_ray.governance.live import VersionRef
from mlops_ray.serving.model_deployment import CALLS_AT_A_TIME, KEPT_VERSIONS, ModelDeployment
from mlops_ray.testing.example_model import seal_example

NUMBERS = np.array([[500.0, 8.0, 30.0]], np.float32)
CATEGORIES = np.array([["JFK", "AA"]], object)


class Registry:
    """waits: what the download of a version waits for, by its number."""

    def __init__(self, folder: Path, versions: int):
        self.folder = folder
        self.sealed = {n: VersionRef(n, seal_example(folder / str(n), salt=n)) for n in range(1, versions + 1)}
        self.waits: dict[int, threading.Event] = {}
        self.fetched: list[int] = []

    def fetch(self, name: str, version: VersionRef, folder: Path) -> Path:
        self.fetched.append(version.version)
        if version.version in self.waits:
            self.waits[version.version].wait(30)
        return self.folder / str(version.version)


def deployment(registry: Registry) -> Any:
    return ModelDeployment.func_or_class("departures", registry)


async def ask(model: Any, ref: VersionRef) -> Any:
    return await model.probability(ref, NUMBERS, CATEGORIES)


def test_the_champion_answers_while_a_candidate_is_downloaded_and_while_all_its_calls_hang(tmp_path: Path) -> None:
    registry = Registry(tmp_path, 2)
    registry.waits[2] = threading.Event()

    async def work() -> None:
        model = deployment(registry)
        await ask(model, registry.sealed[1])
        hanging = [asyncio.create_task(ask(model, registry.sealed[2])) for _ in range(2 * CALLS_AT_A_TIME)]
        await asyncio.sleep(0)
        async with asyncio.timeout(10):
            await ask(model, registry.sealed[1])
        assert not any(one.done() for one in hanging)
        hanging[0].cancel()  # one caller gives up; the others get their answer
        registry.waits[2].set()
        answers = await asyncio.gather(*hanging[1:])
        assert len(answers) == 2 * CALLS_AT_A_TIME - 1

    asyncio.run(work())
    assert registry.fetched == [1, 2]


def test_the_champion_is_not_dropped_however_many_candidates_come(tmp_path: Path) -> None:
    registry = Registry(tmp_path, KEPT_VERSIONS + 3)

    async def work() -> None:
        model = deployment(registry)
        for number in range(1, KEPT_VERSIONS + 4):
            await ask(model, registry.sealed[1])
            await ask(model, registry.sealed[number])
        assert len(model._loaded) == KEPT_VERSIONS

    asyncio.run(work())
    assert registry.fetched.count(1) == 1


def test_a_version_that_did_not_load_is_tried_again(tmp_path: Path) -> None:
    registry = Registry(tmp_path, 1)
    file = tmp_path / "1" / "model.onnx"
    content = file.read_bytes()
    file.write_bytes(content[:-1])

    async def work() -> None:
        model = deployment(registry)
        with pytest.raises(IntegrityError):
            await ask(model, registry.sealed[1])
        file.write_bytes(content)
        assert len(await ask(model, registry.sealed[1])) == 1

    asyncio.run(work())
