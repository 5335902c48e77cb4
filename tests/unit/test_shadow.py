"""What a shadow costs callers (nothing), and what is known of it afterwards."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest

from mlops_ray.errors import UnavailableError
from mlops_ray.governance.events import SYSTEM
from mlops_ray.governance.live import Plan, Rules, Step, VersionRef, live
from mlops_ray.governance.rollouts import start_rollout
from mlops_ray.serving.predictor import Predictor, Vectors
from mlops_ray.serving.shadow import BATCH, MAX_WAITING
from mlops_ray.testing.example_endpoint import NAME, ExampleEndpoint, example_endpoint
from mlops_ray.testing.example_model import example_answer
from tests.raw_ledger import raw_rows

VECTOR = {"origin": "JFK", "distance": 500.0, "carrier": "AA", "hour": 8.0, "recent_delay": 30.0}


class Slow(Predictor):
    seconds = 0.2

    def answers(self, vectors: Vectors) -> Any:
        time.sleep(self.seconds)
        return super().answers(vectors)


class Half(Predictor):
    """Disagrees with the champion."""

    def answers(self, vectors: Vectors) -> Any:
        return np.full(len(vectors), 0.5, np.float32)


class Broken(Predictor):
    works = True

    def answers(self, vectors: Vectors) -> Any:
        if not self.works:
            raise RuntimeError("no")
        return super().answers(vectors)


def shadow_of(kind: type[Predictor]) -> Any:
    """Version 8 is of this kind."""

    def change(version: VersionRef, predictor: Predictor) -> Predictor:
        if version.version == 8:
            predictor.__class__ = kind
        return predictor

    return change


def mirror_everything(example: ExampleEndpoint, rules: Rules | None = None) -> None:
    plan = Plan((Step("shadow", 1.0, 3600),), rules or Rules(min_requests=10**9))
    start_rollout(example.store, SYSTEM, NAME, example.sealed[8], plan)
    for _ in range(3):
        example.follower.follow_once()


def ask(example: ExampleEndpoint, times: int, rows: int = 1) -> float:
    """Ask as often, one after another, wait for the shadow, and return how many seconds callers waited in all."""

    def shadowed() -> int:
        return example.follower.counts["8", "shadow"].requests + example.endpoint.shadow.dropped

    async def work() -> float:
        transport, before = httpx.ASGITransport(example.app), shadowed()
        headers = {"authorization": f"Bearer {example.key}", "content-type": "application/json"}
        async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers) as client:
            started = time.perf_counter()
            for _ in range(times):
                answer = await client.post("/predict", content=json.dumps({"features": [VECTOR] * rows}))
                assert answer.json()["version"] == "7"
            waited = time.perf_counter() - started
        async with asyncio.timeout(10):
            while shadowed() < before + times:
                await asyncio.sleep(0.01)
        return waited

    return asyncio.run(work())


def recorded(example: ExampleEndpoint, expected: int) -> list[str]:
    """Ids of the requests that the ledger has a shadow's answer to, once there are as many; its thread moves them."""
    example.ledger.rotate()
    deadline = time.monotonic() + 10
    while True:
        kept = raw_rows(example.settings, NAME).filter(pl.col("route") == "shadow")
        if len(kept) >= expected or time.monotonic() > deadline:
            return kept["request_id"].to_list()
        time.sleep(0.05)


def test_every_request_is_asked_compared_and_recorded_once(tmp_path: Path) -> None:
    with example_endpoint(tmp_path, change=shadow_of(Half), versions=2) as example:
        mirror_everything(example)
        ask(example, 3 * BATCH)
        counts = example.follower.counts["8", "shadow"]
        assert (counts.requests, counts.errors, counts.compared) == (3 * BATCH, 0, 3 * BATCH)
        assert counts.difference / counts.compared == pytest.approx(abs(example_answer(VECTOR) - 0.5), abs=1e-5)
        assert example.endpoint.shadow.dropped == 0
        kept = recorded(example, 3 * BATCH)
        assert len(set(kept)) == len(kept) == 3 * BATCH


def test_one_that_disagrees_too_much_is_rolled_back(tmp_path: Path) -> None:
    with example_endpoint(tmp_path, change=shadow_of(Half), versions=2) as example:
        mirror_everything(example, Rules(min_requests=10, max_disagreement=0.01))
        ask(example, 20)
        example.follower.follow_once()
        assert live(example.store, NAME).rollout is None


def test_a_slow_shadow_keeps_no_caller_waiting_and_what_is_too_much_is_dropped(tmp_path: Path) -> None:
    with example_endpoint(tmp_path, change=shadow_of(Slow), versions=2) as example:
        mirror_everything(example)
        batches = 2 * MAX_WAITING / BATCH
        # Each batch is two questions: one request alone, and the others.
        assert ask(example, 2 * MAX_WAITING) < 2 * batches * Slow.seconds / 2
        assert 0 < example.endpoint.shadow.dropped <= MAX_WAITING


def test_what_waits_for_a_shadow_is_bounded_by_its_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlops_ray.serving.shadow.MAX_WAITING_BYTES", 1_000)
    with example_endpoint(tmp_path, versions=2) as example:
        mirror_everything(example)
        for rows, dropped in ((1, 0), (50, 1), (1, 1)):  # what was worked off makes room
            ask(example, 1, rows)
            assert example.endpoint.shadow.dropped == dropped


def test_a_shadow_that_raises_is_counted_and_asked_again(tmp_path: Path) -> None:
    with example_endpoint(tmp_path, change=shadow_of(Broken), versions=2) as example:
        mirror_everything(example)
        Broken.works = False
        try:
            ask(example, 3)
        finally:
            Broken.works = True
        ask(example, 3)
        counts = example.follower.counts["8", "shadow"]
        assert (counts.requests, counts.errors) == (6, 3)


def test_a_full_disk_ends_no_shadow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with example_endpoint(tmp_path, versions=2) as example:
        mirror_everything(example)
        append = example.ledger.append

        def full(version: str, **record: Any) -> None:
            if record["route"] == "shadow":
                raise UnavailableError("The ledger cannot write.")
            append(version, **record)

        with monkeypatch.context() as patch:
            patch.setattr(example.ledger, "append", full)
            ask(example, 3)
        ask(example, 3)
        assert len(recorded(example, 3)) == 3
