"""A version that is let go of answers what it was asked, a candidate costs callers nothing, however it fails."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import httpx
import numpy as np
import pytest

from mlops_ray.errors import UnavailableError
from mlops_ray.features.online.row import OnlineRow
from mlops_ray.governance.events import SYSTEM
from mlops_ray.governance.live import Plan, Rules, Step, VersionRef, live
from mlops_ray.governance.rollback import roll_back
from mlops_ray.governance.rollouts import start_rollout
from mlops_ray.serving import loader as loader_module
from mlops_ray.serving.batching import Batcher
from mlops_ray.serving.predictor import Predictor, Vectors
from mlops_ray.serving.served_version import WAITING_LOOKUPS
from mlops_ray.serving.traffic import LEAST_PATIENCE_S
from mlops_ray.testing.example_endpoint import NAME, ExampleEndpoint, MakePredictor, example_endpoint
from mlops_ray.testing.example_model import RecentDelays, example_reader
from tests.unit.test_endpoint import KEY, VECTOR, infer, predict, tensors

EVERYTHING = Plan((Step("canary", 1.0, 3600),), Rules(min_requests=10**9, max_error_rate=1.0))
MIRROR = Plan((Step("shadow", 1.0, 3600),), Rules(min_requests=10**9, max_error_rate=1.0))


class Waiting(RecentDelays):
    """A store on another machine, so that every lookup goes through the version's thread."""

    waits = True


class Slow(Predictor):
    seconds = 0.3

    def answers(self, vectors: Vectors) -> Any:
        time.sleep(self.seconds)
        return super().answers(vectors)


class Hanging(Predictor):
    """Answers until it is told to hang, and hangs until it is let go."""

    hangs, let_go = threading.Event(), threading.Event()

    def answers(self, vectors: Vectors) -> Any:
        if self.hangs.is_set():
            self.let_go.wait(30)
        return super().answers(vectors)


def candidate_of(kind: type[Predictor]) -> MakePredictor:
    def change(version: VersionRef, predictor: Predictor) -> Predictor:
        if version.version == 8:
            predictor.__class__ = kind
        return predictor

    return change


@contextmanager
def rolling_out(folder: Path, kind: type[Predictor], plan: Plan, reader: Any = None) -> Iterator[ExampleEndpoint]:
    with example_endpoint(folder, reader, change=candidate_of(kind), versions=2) as example:
        start_rollout(example.store, SYSTEM, NAME, example.sealed[8], plan)
        for _ in range(3):
            example.follower.follow_once()
        assert example.follower.traffic.step == plan.steps[0]
        yield example


async def ask(example: ExampleEndpoint, client: httpx.AsyncClient, body: Any, path: str = "/predict") -> httpx.Response:
    headers = {"authorization": f"Bearer {example.key}", "content-type": "application/json"}
    return await client.post(path, content=json.dumps(body), headers=headers)


def together(example: ExampleEndpoint, work: Callable[[httpx.AsyncClient], Any]) -> Any:
    async def run() -> Any:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(example.app), base_url="http://test") as client:
            return await work(client)

    return asyncio.run(run())


@pytest.mark.parametrize("drain_s", [0.0, 15.0])
def test_requests_that_wait_for_a_canary_are_answered_though_it_is_rolled_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drain_s: float
) -> None:
    monkeypatch.setattr(loader_module, "DRAIN_S", drain_s)
    with rolling_out(tmp_path, Slow, EVERYTHING, Waiting(example_reader().values)) as example:

        async def work(client: httpx.AsyncClient) -> list[httpx.Response]:
            asked = [asyncio.create_task(ask(example, client, {"keys": KEY})) for _ in range(3)]
            await asyncio.sleep(0.1)
            state = live(example.store, NAME)
            roll_back(example.store, SYSTEM, NAME, state.revision, 7, "complaints")
            example.follower.follow_once()
            example.follower.follow()
            return await asyncio.gather(*asked)

        answers = together(example, work)
        assert [answer.status_code for answer in answers] == [200] * 3
        assert example.follower.traffic.candidate is None


def test_a_canary_whose_thread_lets_go_of_requests_is_a_failure_that_the_champion_answers(tmp_path: Path) -> None:
    with rolling_out(tmp_path, Slow, EVERYTHING) as example:
        canary = example.follower.traffic.candidate
        assert canary is not None

        async def work(client: httpx.AsyncClient) -> list[httpx.Response]:
            asked = [asyncio.create_task(ask(example, client, {"features": VECTOR})) for _ in range(4)]
            await asyncio.sleep(0.1)
            canary._threads.shutdown(wait=False, cancel_futures=True)
            return await asyncio.gather(*asked)

        answers = together(example, work)
        assert [answer.json().get("version") for answer in answers] == ["8", "7", "7", "7"]
        assert example.follower.counts["8", "canary"].errors == 3


def test_a_champion_whose_thread_lets_go_of_a_request_is_a_503_that_may_be_asked_again(tmp_path: Path) -> None:
    with example_endpoint(tmp_path, Waiting(example_reader().values)) as example:
        champion = example.follower.traffic.champion
        champion.predictor.__class__ = Slow

        async def work(client: httpx.AsyncClient) -> list[httpx.Response]:
            asked = [asyncio.create_task(ask(example, client, {"keys": KEY})) for _ in range(WAITING_LOOKUPS + 1)]
            await asyncio.sleep(0.1)
            champion._threads.shutdown(wait=False, cancel_futures=True)
            return await asyncio.gather(*asked)

        assert [answer.status_code for answer in together(example, work)] == [*[200] * WAITING_LOOKUPS, 503]


def test_a_batch_that_is_let_go_of_fails_at_once() -> None:
    async def cancelled(vectors: Vectors) -> Any:
        raise asyncio.CancelledError

    async def work() -> None:
        batcher = Batcher(cancelled, 32, 0.001)
        vectors = Vectors(np.zeros((1, 1), np.float32), np.empty((1, 0), object))
        async with asyncio.timeout(5):
            with pytest.raises(UnavailableError, match="closed while it was asked"):
                await batcher.answers(vectors)

    asyncio.run(work())


def eight_tensors() -> list[dict[str, Any]]:
    return [{**one, "data": one["data"] * 8, "shape": [8]} for one in tensors()]


class Noting(Predictor):
    """Notes in which threads it is asked."""

    threads: ClassVar[set[str]] = set()

    def answers(self, vectors: Vectors) -> Any:
        self.threads.add(threading.current_thread().name)
        return super().answers(vectors)


@pytest.mark.parametrize("plan", [EVERYTHING, MIRROR])
def test_a_candidate_is_never_asked_on_the_event_loop_where_all_answers_would_wait(tmp_path: Path, plan: Plan) -> None:
    with rolling_out(tmp_path, Noting, plan) as example:
        Noting.threads.clear()

        async def work(client: httpx.AsyncClient) -> None:
            for times in range(1, 4):  # a shadow that was quick before is not trusted either
                await ask(example, client, {"features": [VECTOR] * 8})
                await ask(example, client, {"keys": [KEY] * 8})
                await ask(example, client, {"inputs": eight_tensors()}, "/infer")
                async with asyncio.timeout(10):
                    while example.follower.counts["8", plan.steps[0].route].requests < 3 * times:
                        await asyncio.sleep(0.01)

        together(example, work)
        assert Noting.threads
        assert all(name.startswith("version-8") for name in Noting.threads)


@pytest.mark.parametrize("plan", [EVERYTHING, MIRROR])
def test_a_candidate_that_hangs_keeps_one_caller_waiting_and_is_found_out(tmp_path: Path, plan: Plan) -> None:
    with rolling_out(tmp_path, Hanging, plan) as example:
        Hanging.let_go.clear()
        Hanging.hangs.set()
        try:

            async def work(client: httpx.AsyncClient) -> list[float]:
                took_s = []
                for _ in range(6):
                    began_s = time.perf_counter()
                    answer = await ask(example, client, {"features": [VECTOR] * 8})
                    assert answer.json()["version"] == "7"
                    took_s.append(time.perf_counter() - began_s)
                return took_s

            took_s = together(example, work)
        finally:
            Hanging.hangs.clear()
            Hanging.let_go.set()
        assert max(took_s[1:]) < LEAST_PATIENCE_S
        if plan is EVERYTHING:
            assert took_s[0] < 5
            assert example.follower.counts["8", "canary"].errors == 6


def test_a_version_that_is_let_go_of_closes_its_reader_when_all_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader_module, "DRAIN_S", 0.0)
    readers: dict[int, RecentDelays] = {}

    def change(version: VersionRef, predictor: Predictor) -> Predictor:
        readers[version.version] = reader = Waiting(example_reader().values)
        predictor.reader = reader
        return predictor

    with example_endpoint(tmp_path, change=change, versions=2) as example:
        start_rollout(example.store, SYSTEM, NAME, example.sealed[8], EVERYTHING)
        example.follower.follow_once()
        roll_back(example.store, SYSTEM, NAME, live(example.store, NAME).revision, 7, "complaints")
        for _ in range(2):
            example.follower.follow_once()
        until_s = time.monotonic() + 5
        while not readers[8].is_closed and time.monotonic() < until_s:
            time.sleep(0.01)
        assert readers[8].is_closed
        assert not readers[7].is_closed


def test_one_bad_request_fails_alone_in_a_shadow_batch_and_like_is_compared_with_like(tmp_path: Path) -> None:
    class Picky(Predictor):
        def answers(self, vectors: Vectors) -> Any:
            if (vectors.numbers[:, 0] > 9_000).any():
                raise RuntimeError("too far")
            return super().answers(vectors)

    with rolling_out(tmp_path, Picky, MIRROR) as example:

        async def work(client: httpx.AsyncClient) -> None:
            for number in range(33):
                far = {**VECTOR, "distance": 9_500.0} if number == 20 else VECTOR
                assert (await ask(example, client, {"features": far})).status_code == 200
            counts = example.follower.counts["8", "shadow"]
            async with asyncio.timeout(10):
                while counts.requests < 33:
                    await asyncio.sleep(0.01)

        together(example, work)
        shadow, champion = example.follower.counts["8", "shadow"], example.follower.counts["7", "champion"]
        assert (shadow.requests, shadow.errors, shadow.compared) == (33, 1, 32)
        assert 0 < sum(shadow.work) < 33
        assert sum(champion.work) == 33


def test_rows_of_a_request_that_fall_to_different_versions_are_refused_and_features_fall_to_the_champion(
    tmp_path: Path,
) -> None:
    plan = Plan((Step("canary", 0.5, 3600),), EVERYTHING.rules, sticky="carrier")
    with rolling_out(tmp_path, Predictor, plan) as example:
        carriers = [f"{letter}{number}" for letter in "ABCDEFGH" for number in range(10)]
        traffic = example.follower.traffic
        taken = [carrier for carrier in carriers if traffic.takes(carrier)]
        left = [carrier for carrier in carriers if not traffic.takes(carrier)]
        assert len(taken) > 10
        assert len(left) > 10

        def rows(*of: str) -> dict[str, Any]:
            return {"keys": [{**KEY, "carrier": carrier} for carrier in of]}

        assert predict(example, rows(taken[0], taken[1])).json()["version"] == "8"
        assert predict(example, rows(left[0], left[1])).json()["version"] == "7"
        refused = predict(example, rows(taken[0], left[0]))
        assert (refused.status_code, refused.json()["field"]) == (400, "keys")
        assert "rows 0 and 1 are answered by different versions" in refused.json()["error"]
        for _ in range(20):
            assert predict(example, {"features": VECTOR}).json()["version"] == "7"
            assert infer(example, {"inputs": tensors()}).json()["model_version"] == "7"


def test_the_callers_of_a_canary_are_others_in_the_next_rollout(tmp_path: Path) -> None:
    plan = Plan((Step("canary", 0.5, 3600),), EVERYTHING.rules)
    with rolling_out(tmp_path, Predictor, plan) as example:
        callers = [str(number) for number in range(2_000)]
        first = {caller for caller in callers if example.follower.traffic.takes(caller)}
        roll_back(example.store, SYSTEM, NAME, live(example.store, NAME).revision, 7, "again")
        start_rollout(example.store, SYSTEM, NAME, example.sealed[8], plan)
        for _ in range(3):
            example.follower.follow_once()
        second = {caller for caller in callers if example.follower.traffic.takes(caller)}
        assert 400 < len(first & second) < 600


def test_a_store_of_a_candidate_that_is_down_fails_a_whole_batch_at_once(tmp_path: Path) -> None:
    """Each lookup would wait for the same store."""

    class Down(Waiting):
        def find(self, rows: Any, moments: Any) -> list[OnlineRow]:
            self.reads += 1
            raise UnavailableError("The online store does not answer.")

    down = Down({})

    def change(version: VersionRef, predictor: Predictor) -> Predictor:
        if version.version == 8:
            predictor.reader = down
        return predictor

    with example_endpoint(tmp_path, change=change, versions=2) as example:
        start_rollout(example.store, SYSTEM, NAME, example.sealed[8], MIRROR)
        for _ in range(3):
            example.follower.follow_once()
        candidate = example.follower.traffic.candidate
        assert candidate is not None
        candidate.takes = []  # as one that takes other features than the champion

        async def work(client: httpx.AsyncClient) -> None:
            await asyncio.gather(*(ask(example, client, {"keys": KEY}) for _ in range(10)))
            async with asyncio.timeout(10):
                while example.follower.counts["8", "shadow"].errors < 10:
                    await asyncio.sleep(0.01)

        together(example, work)
        assert down.reads == 1
