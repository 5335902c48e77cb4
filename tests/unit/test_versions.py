"""Several versions in one replica: who answers, what a failing one costs, and what is recorded."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import uuid6
from hypothesis import given
from hypothesis import strategies as st
from polars.exceptions import PanicException

from mlops_ray.errors import UnavailableError
from mlops_ray.governance.champion import set_champion
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import SYSTEM, read_events
from mlops_ray.governance.live import Plan, Step, VersionRef, live
from mlops_ray.governance.rollouts import promote, start_rollout
from mlops_ray.predictions.reader import Ledger
from mlops_ray.serving.batching import Batcher, TurnBatcher
from mlops_ray.serving.follower import Follower
from mlops_ray.serving.predictor import Predictor, Vectors
from mlops_ray.serving.traffic import share_of
from mlops_ray.testing.example_endpoint import NAME, ExampleEndpoint, example_endpoint
from mlops_ray.testing.example_model import example_answer
from mlops_ray.use_case import Serving
from tests.unit.test_endpoint import KEY, VECTOR, Reader, predict, recorded, send, tensors

HOLD = 3600


class Changed(Predictor):
    """The predictor of another, with its own probabilities."""

    def __init__(self, predictor: Predictor, answer: Callable[[Vectors], Any]):
        self.__dict__ = dict(predictor.__dict__)
        self._answer = answer

    def answers(self, vectors: Vectors) -> Any:
        return self._answer(vectors)


def half(vectors: Vectors) -> Any:
    return np.full(len(vectors), 0.5, np.float32)


@contextmanager
def two_versions(state: Path, answer: Callable[[Vectors], Any], *steps: Step, **plan: Any) -> Iterator[ExampleEndpoint]:
    """Version 7 is champion, version 8 answers with `answer` and is in the first of `steps`."""

    def change(version: VersionRef, predictor: Predictor) -> Predictor:
        return Changed(predictor, answer) if version.version == 8 else predictor

    with example_endpoint(state, change=change, versions=2) as example:
        start_rollout(example.store, SYSTEM, NAME, example.sealed[8], Plan(steps, **plan))
        follow(example, 2)
        yield example


def follow(example: ExampleEndpoint, rounds: int = 1) -> None:
    for _ in range(rounds):
        example.follower.follow_once()


def asked(example: ExampleEndpoint, times: int, body: Any = None) -> list[dict[str, Any]]:
    responses = [predict(example, body or {"features": VECTOR}) for _ in range(times)]
    assert {response.status_code for response in responses} == {200}, responses[-1].text
    return [response.json() for response in responses]


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_canary_gets_its_share_and_every_answer_names_its_version(tmp_path: Path) -> None:
    with two_versions(tmp_path, half, Step("canary", 0.3, HOLD)) as example:
        answers = asked(example, 200)
        shares = Counter(answer["version"] for answer in answers)
        assert 30 <= shares["8"] <= 90
        for answer in answers:
            assert (answer["predictions"][0]["probability"] == 0.5) == (answer["version"] == "8")


def test_the_same_request_id_goes_to_the_same_version(tmp_path: Path) -> None:
    with two_versions(tmp_path, half, Step("canary", 0.5, HOLD)) as example:
        for _ in range(20):
            request_id = str(uuid6.uuid7())
            versions = {
                predict(example, {"features": VECTOR}, **{"x-request-id": request_id}).json()["version"]
                for _ in range(3)
            }
            assert len(versions) == 1


def test_a_sticky_key_goes_to_the_same_version_whatever_the_request(tmp_path: Path) -> None:
    with two_versions(tmp_path, half, Step("canary", 0.5, HOLD), sticky="carrier") as example:
        versions = {
            carrier: {answer["version"] for answer in asked(example, 5, {"keys": {**KEY, "carrier": carrier}})}
            for carrier in ("AA", "UA", "B6", "DL", "EV", "MQ", "WN", "US")
        }
        assert all(len(seen) == 1 for seen in versions.values())
        assert set.union(*versions.values()) == {"7", "8"}


def test_a_canary_that_raises_costs_no_caller_anything_and_is_rolled_back_by_rule(tmp_path: Path) -> None:
    def broken(vectors: Vectors) -> Any:
        if np.isnan(vectors.numbers).all():
            return half(vectors)  # warming up works: the failure shows with real requests only
        raise ZeroDivisionError

    with two_versions(tmp_path, broken, Step("canary", 1.0, HOLD)) as example:
        assert {answer["version"] for answer in asked(example, 10)} == {"7"}
        follow(example)
        assert live(example.store, NAME).rollout is None
        (event,) = read_events(example.store, types=["rollout.rolled_back"])
        assert "10 of 10 requests failed" in event.reason
        assert event.payload["version"] == {"requests": 10, "errors": 10, "median_s": None}
        follow(example)
        assert example.follower.traffic.candidate is None


def test_a_wrong_request_is_not_the_canarys_failure(tmp_path: Path) -> None:
    with two_versions(tmp_path, half, Step("canary", 1.0, HOLD)) as example:
        for _ in range(10):
            assert predict(example, {"features": {}}).status_code == 400
        follow(example)
        assert live(example.store, NAME).rollout is not None


def test_every_answer_is_in_the_ledger_once_with_its_version_and_route(tmp_path: Path) -> None:
    with two_versions(tmp_path, half, Step("canary", 0.5, HOLD)) as example:
        answers = asked(example, 30) + asked(example, 10, {"keys": [KEY, KEY]})
        example.ledger.rotate()
        wait_until(lambda: example.ledger.lag().files == 0)
        kept = Ledger(example.settings, NAME).frame()
    assert kept.height == 30 + 20
    assert dict(zip(kept["request_id"], kept["version"], strict=True)) == {
        answer["request_id"]: answer["version"] for answer in answers
    }
    assert set(kept["route"]) == {"champion", "canary"}
    assert set(kept.filter(kept["route"] == "canary")["version"]) == {"8"}


def test_a_promotion_and_a_rollback_take_effect_at_the_next_look_without_loading(tmp_path: Path) -> None:
    with two_versions(tmp_path, half, Step("canary", 0.5, HOLD)) as example:

        def operate(path: str, to: int) -> int:
            seen = send(example, "GET", "/rollout").json()["revision"]
            body = {"to": to, "revision": seen, "reason": "test"}
            return send(example, "POST", f"/rollout/{path}", json=body).status_code

        assert operate("promote", 8) == 200
        follow(example)
        assert {answer["version"] for answer in asked(example, 10)} == {"8"}
        before = example.follower.versions()
        assert operate("rollback", 7) == 200
        follow(example)
        assert {answer["version"] for answer in asked(example, 10)} == {"7"}
        assert example.follower.versions() == before
        assert operate("promote", 8) == 409


def test_operations_are_described_and_refused_in_words(tmp_path: Path) -> None:
    with two_versions(tmp_path, half, Step("canary", 0.5, HOLD)) as example:
        shown = send(example, "GET", "/rollout").json()
        assert (shown["champion"]["version"], shown["rollout"]["version"]["version"]) == (7, 8)
        assert shown["rollout"]["plan"]["steps"] == [{"route": "canary", "share": 0.5, "hold_s": HOLD}]
        again = send(example, "POST", "/rollout", json={"version": 8, "revision": shown["revision"]})
        assert again.status_code == 409
        assert "under way" in again.json()["error"]
        for body in ({"version": "8"}, {}, {"version": 8, "plan": {"stps": []}}, [1], "x"):
            assert send(example, "POST", "/rollout", json=body).status_code in (400, 409), body
        (started,) = read_events(example.store, types=["rollout.started"])
        assert started.actor == "system"


def test_a_damaged_version_never_takes_traffic_and_is_reported(tmp_path: Path) -> None:
    with example_endpoint(tmp_path, versions=2) as example:
        file = tmp_path / "sealed" / "8" / "model.onnx"
        file.write_bytes(file.read_bytes()[:-10])
        start_rollout(example.store, SYSTEM, NAME, example.sealed[8], Plan((Step("canary", 1.0, HOLD),)))
        follow(example, 2)
        assert {answer["version"] for answer in asked(example, 10)} == {"7"}
        assert live(example.store, NAME).rollout is None
        (event,) = read_events(example.store, types=["version.load_failed"])
        assert "model.onnx" in event.reason
        set_champion(example.store, SYSTEM, NAME, example.sealed[8], "forced")
        follow(example)
        assert {answer["version"] for answer in asked(example, 5)} == {"7"}


def test_a_replica_starts_with_the_previous_champion_if_the_champion_is_damaged(tmp_path: Path) -> None:
    with example_endpoint(tmp_path, versions=2) as example:
        set_champion(example.store, SYSTEM, NAME, example.sealed[8], "next")
        (tmp_path / "sealed" / "8" / "model.onnx").unlink()
        fresh = Follower(example.store, NAME, "second", "node", example.load, example.guard)
        fresh.prepare()
        assert fresh.traffic.champion.version == "7"


def test_without_the_control_store_a_replica_goes_on(tmp_path: Path) -> None:
    with example_endpoint(tmp_path) as example:
        example.follower.store = ControlStore(f"sqlite:///{tmp_path}/away/control_store.db")
        with pytest.raises(UnavailableError):
            example.follower.follow_once()
        assert len(asked(example, 3)) == 3


def test_a_ledger_that_is_full_refuses_rather_than_answering_unrecorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with example_endpoint(tmp_path) as example:

        def full(*given: Any, **named: Any) -> None:
            raise UnavailableError("The ledger cannot write.")

        monkeypatch.setattr(example.ledger, "append", full)
        assert predict(example, {"features": VECTOR}).status_code == 503


@given(st.uuids())
def test_shares_are_spread_evenly_and_stay(key: Any) -> None:
    assert 0 <= share_of(str(key), "r") < 1
    assert share_of(str(key), "r") == share_of(str(key), "r")


def test_shares_are_even() -> None:
    shares = [share_of(str(uuid6.uuid7()), "r") for _ in range(20_000)]
    assert np.histogram(shares, 10, (0, 1))[0] == pytest.approx(2000, abs=200)


def test_rows_of_requests_that_come_together_are_one_question_to_the_model() -> None:
    questions: list[int] = []

    async def ask_model(vectors: Vectors) -> Any:
        questions.append(len(vectors))
        await asyncio.sleep(0.001)
        return vectors.numbers[:, 0]

    async def ask() -> list[Any]:
        batcher = Batcher(ask_model, max_rows=8, wait_s=0.02)
        parts = [Vectors(np.full((rows, 1), rows, np.float32), np.empty((rows, 0), object)) for rows in (1, 2, 3, 4, 1)]
        return await asyncio.gather(*(batcher.answers(part) for part in parts))

    answers = asyncio.run(ask())
    assert [answer.tolist() for answer in answers] == [[1], [2, 2], [3] * 3, [4] * 4, [1]]
    assert questions == [10, 1]


def test_a_batch_that_fails_fails_all_its_callers() -> None:
    async def ask_model(vectors: Vectors) -> Any:
        raise ZeroDivisionError

    async def ask() -> list[Any]:
        batcher = Batcher(ask_model, max_rows=2, wait_s=0.02)
        part = Vectors(np.zeros((1, 1), np.float32), np.empty((1, 0), object))
        return await asyncio.gather(*(batcher.answers(part) for _ in range(2)), return_exceptions=True)

    assert [type(answer) for answer in asyncio.run(ask())] == [ZeroDivisionError] * 2


def test_a_use_case_may_go_on_without_its_online_store(tmp_path: Path) -> None:
    asked_store: list[int] = []

    def down(rows: Any) -> Any:
        asked_store.append(len(rows))
        raise UnavailableError("The online store does not answer.")

    def lenient(version: VersionRef, predictor: Predictor) -> Predictor:
        schema = replace(predictor.sealed.schema, serving=Serving(store_down="missing"))
        return Predictor(replace(predictor.sealed, schema=schema), Reader(down))

    with example_endpoint(tmp_path, change=lenient) as example:
        answers = asked(example, 3, {"keys": KEY})
        assert all(answer["degraded"] is True for answer in answers)
        unknown = example_answer({**VECTOR, "recent_delay": None})
        assert answers[0]["predictions"][0]["probability"] == pytest.approx(unknown, abs=1e-6)
        assert len(asked_store) == 3
        assert "degraded" not in asked(example, 1)[0]


@pytest.mark.parametrize("error", [PanicException("out of range"), CancelledError()])
def test_a_canary_that_panics_costs_its_caller_nothing_and_is_counted(tmp_path: Path, error: BaseException) -> None:
    def panics(vectors: Vectors) -> Any:
        raise error

    with two_versions(tmp_path, half, Step("canary", 1.0, HOLD)) as example:
        candidate = example.follower.traffic.candidate
        assert candidate is not None
        candidate.predictor.answers = panics  # type: ignore[method-assign]
        assert {answer["version"] for answer in asked(example, 3)} == {"7"}
        assert example.follower.counts["8", "canary"].errors == 3
        refused = predict(example, {"features": VECTOR}, **{"x-model-version": "8"})
        assert refused.status_code == (500 if isinstance(error, PanicException) else 503)
        assert example.follower.counts["8", "asked"].errors == 1


def test_what_is_asked_of_a_candidate_takes_no_place_of_what_the_champion_answers(tmp_path: Path) -> None:
    """Under one id and with one question, in either order."""
    for number, order in enumerate((({}, {"x-model-version": "8"}), ({"x-model-version": "8"}, {}))):
        with two_versions(tmp_path / str(number), half, Step("shadow", 0.01, HOLD)) as example:
            for named in order:
                for _ in range(2):
                    headers = {"x-request-id": "0190e2a3-5b7c-7d2e-8f1a-123456789abc", **named}
                    assert predict(example, {"features": VECTOR}, **headers).status_code == 200
            example.ledger.rotate()
            example.ledger.collect_leftovers()
            found = Ledger(example.settings, NAME).frame().filter(pl.col("route") != "shadow")
        assert sorted(found["version"].to_list()) == ["7", "8"]


def test_the_record_tells_what_who_operates_asked_from_what_fell_to_the_canary(tmp_path: Path) -> None:
    with two_versions(tmp_path, half, Step("canary", 1.0, HOLD)) as example:
        for named in ({}, {"x-model-version": "8"}, {"x-model-version": "7"}):
            assert predict(example, {"features": VECTOR}, **named).status_code == 200
        assert recorded(example)["route"].to_list() == ["canary", "asked", "champion"]


@pytest.mark.parametrize("path", ["/predict", "/infer", "/versions/7/infer"])
def test_the_answer_of_a_champion_that_is_named_counts_beside_the_canary_s(tmp_path: Path, path: str) -> None:
    mine = {"x-request-id": "0190e2a3-5b7c-7d2e-8f1a-123456789abc"}
    body: dict[str, Any] = {"features": VECTOR} if path == "/predict" else {"inputs": tensors()}
    named = {} if path.startswith("/versions") else {"x-model-version": "7"}
    with two_versions(tmp_path, half, Step("canary", 1.0, HOLD)) as example:
        for where, headers in ((path.removeprefix("/versions/7"), mine), (path, {**mine, **named})):
            for _ in range(2):
                assert send(example, "POST", where, json=body, headers=headers).status_code == 200
        assert recorded(example)["version"].to_list() == ["8", "7"]
        assert Ledger(example.settings, NAME).frame()["version"].to_list() == ["8", "7"]


def test_versions_named_before_and_after_a_promotion_both_count_and_are_repeated_as_recorded(tmp_path: Path) -> None:
    mine = {"x-request-id": "0190e2a3-5b7c-7d2e-8f1a-123456789abc"}

    def ask(version: str) -> Any:
        return predict(example, {"features": VECTOR}, **mine, **{"x-model-version": version}).json()

    with two_versions(tmp_path, half, Step("shadow", 1e-9, HOLD)) as example:
        of_champion, of_candidate = ask("7"), ask("8")
        rollout = live(example.store, NAME).rollout
        assert rollout is not None
        promote(example.store, SYSTEM, NAME, rollout, "better")
        follow(example)
        assert (ask("8"), ask("7")) == (of_candidate, of_champion)
        assert predict(example, {"features": VECTOR}, **{"x-model-version": "7"}).status_code == 404
        assert recorded(example)["version"].to_list() == ["7", "8"]
        assert Ledger(example.settings, NAME).frame()["version"].to_list() == ["7", "8"]


def test_a_sticky_canary_makes_no_request_count_twice(tmp_path: Path) -> None:
    """`keys` are read to see who answers, and again by whoever does."""
    with two_versions(tmp_path, half, Step("canary", 1e-9, HOLD), sticky="carrier") as example:
        judged = example.follower.traffic.champion.judged
        asked(example, 1, {"keys": {**KEY, "carrier": " AA "}})
        assert (judged.values.total(), judged.repaired, judged.refused) == (1, 1, 0)
        assert predict(example, {"keys": {**KEY, "distance": "x"}}).status_code == 400
        assert (judged.values.total(), judged.repaired, judged.refused) == (1, 1, 1)


def test_one_lookup_that_panics_is_not_its_neighbours(tmp_path: Path) -> None:
    def look_up(rows: Any, moments: Any) -> Vectors:
        if any(row["bad"] for row in rows):
            raise PanicException("out of range")
        return Vectors(np.zeros((len(rows), 1), np.float32), np.zeros((len(rows), 0), object))

    async def ask() -> list[Any]:
        lookups = TurnBatcher(look_up)
        wanted = [lookups.vectors([{"bad": bad}], datetime.now(UTC)) for bad in (False, True, False)]
        return await asyncio.wait_for(asyncio.gather(*wanted, return_exceptions=True), 5)

    first, second, third = asyncio.run(ask())
    assert isinstance(second, PanicException)
    assert len(first[0]) == len(third[0]) == 1
