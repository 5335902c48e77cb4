"""Twenty requests a second by keys, while the online store is gone: each answer is what the use case says."""

import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo

import httpx
import polars as pl
import pytest

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings, load_settings
from mlops_ray.features.columns import PREDICTION_TIME
from mlops_ray.features.definitions import project_of, read_definitions
from mlops_ray.features.online.materialize import materialize
from mlops_ray.features.store import Store
from mlops_ray.features.transform import FeatureRows
from mlops_ray.serving.predictor import Predictor
from mlops_ray.testing.example_endpoint import example_endpoint
from mlops_ray.testing.example_model import example_answer
from mlops_ray.use_case.serving import Serving
from tests.integration.store_servers import started
from tests.integration.test_front_end import running

DEFINITIONS = """
from datetime import timedelta
from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Float64

origin = Entity(name="origin", value_type=ValueType.STRING)
carrier = Entity(name="carrier", value_type=ValueType.STRING)
delays = FeatureView(
    name="delays", entities=[origin, carrier], ttl=timedelta(days=9),
    schema=[Field(name="recent_delay", dtype=Float64)],
    source=FileSource(name="delays", path="delays.parquet", timestamp_field="event_timestamp"),
)
service = FeatureService(name="departures", features=[delays])
"""
NOW = datetime.now(UTC).replace(microsecond=0)
DEPARTURE = (NOW + timedelta(hours=12)).replace(hour=17, minute=0)
KEY = {"carrier": "AA", "origin": "JFK", "departure": DEPARTURE.isoformat(), "distance": 500.0}
NEW_YORK = ZoneInfo("America/New_York")
PER_S = 20


def filled(settings: Settings, folder: Path) -> Store:
    (folder / "views.py").write_text(DEFINITIONS)
    definitions = read_definitions(folder, "departures")
    assert definitions is not None
    frame = pl.DataFrame(
        {"origin": ["JFK"], "carrier": ["AA"], PREDICTION_TIME: [NOW - timedelta(hours=1)], "recent_delay": [30.0]},
        schema_overrides={PREDICTION_TIME: pl.Datetime("us", "UTC")},
    )
    rows = [FeatureRows("delays", Artifacts(settings.artifacts).write_table(frame, "delays.parquet"), "0", 1, "")]
    materialize(settings, definitions, rows, NOW)
    return Store(settings, project_of(definitions, rows))


@dataclass
class Seen:
    """Status, whether degraded, and seconds of each answer, in the order in which they were asked; and what was said
    where it was no answer."""

    answers: list[tuple[float, int, bool, float]] = field(default_factory=list)
    said: set[str] = field(default_factory=set)

    def kinds(self) -> Counter[tuple[int, bool]]:
        return Counter((status, degraded) for _, status, degraded, _ in self.answers)


@contextmanager
def served(state: Path, store: Store, down: Literal["refuse", "missing"]) -> Iterator[tuple[str, str]]:
    """An endpoint behind a real uvicorn: its URL and a key."""

    def change(_: Any, predictor: Predictor) -> Predictor:
        schema = replace(predictor.sealed.schema, serving=Serving(store_down=down))
        return Predictor(replace(predictor.sealed, schema=schema), store.online_reader())

    with example_endpoint(state, change=change) as example, running(example.app) as port:
        yield f"http://127.0.0.1:{port}/predict", example.key


@contextmanager
def asked(url: str, key: str) -> Iterator[Seen]:
    """Twenty requests a second until the block ends."""
    seen, ended = Seen(), threading.Event()
    client = httpx.Client(headers={"authorization": f"Bearer {key}"}, timeout=20)

    def ask() -> None:
        began_s = time.monotonic()
        response = client.post(url, json={"keys": KEY})
        degraded = response.status_code == 200 and response.json().get("degraded", False)
        if response.status_code == 200:
            row = {"origin": "JFK", "carrier": "AA", "distance": 500.0}
            hour = DEPARTURE.astimezone(NEW_YORK).hour
            right = example_answer({**row, "hour": hour, "recent_delay": None if degraded else 30.0})
            assert response.json()["predictions"][0]["probability"] == pytest.approx(right, abs=1e-6)
        else:
            seen.said.add(response.json()["error"])
        seen.answers.append((began_s, response.status_code, degraded, time.monotonic() - began_s))

    def ask_at_a_rate() -> None:
        with ThreadPoolExecutor(32) as pool:
            asked = []
            while not ended.wait(1 / PER_S):
                asked.append(pool.submit(ask))
            for one in asked:
                one.result()

    load = threading.Thread(target=ask_at_a_rate)
    load.start()
    try:
        yield seen
    finally:
        ended.set()
        load.join()
        client.close()


@pytest.mark.parametrize("kind", ["redis", "postgresql"])
def test_answers_are_fast_503_or_degraded_and_right_again_within_5_s(kind: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(started(kind))
        store = filled(load_settings(state=str(tmp_path), data=str(tmp_path), online_store=server.url), tmp_path)
        refuse = stack.enter_context(asked(*stack.enter_context(served(tmp_path / "refuse", store, "refuse"))))
        missing = stack.enter_context(asked(*stack.enter_context(served(tmp_path / "missing", store, "missing"))))
        time.sleep(2)
        server.signal(signal.SIGSTOP)
        time.sleep(4)
        server.signal(signal.SIGCONT)
        back_s = time.monotonic()
        time.sleep(5.5)
    for name, seen, otherwise in (("refuse", refuse, (503, False)), ("missing", missing, (200, True))):
        took_s = sorted(took for *_, took in seen.answers)
        wrong_s = [began_s for began_s, status, degraded, _ in seen.answers if degraded or status != 200]
        wrong_after_s = max(wrong_s) - back_s
        print(f"{kind} {name}: {dict(seen.kinds())}, slowest {took_s[-1]:.1f} s, right {wrong_after_s:.1f} s after")
        assert set(seen.kinds()) == {(200, False), otherwise}, seen.said
        assert wrong_after_s < 5
        assert took_s[-1] < 4
        assert took_s[len(took_s) * 4 // 5] < 0.5
