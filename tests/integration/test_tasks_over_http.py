"""A number and classes, over HTTP: asked, told and found in the ledger, from a replica and from a model apart."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import tritonclient.http as triton

from mlops_ray.artifacts import Artifacts
from mlops_ray.client import Client
from mlops_ray.config import Settings
from mlops_ray.errors import DataError
from mlops_ray.predictions.labels import Labels
from mlops_ray.predictions.reader import Ledger
from mlops_ray.tasks.task import Task
from tests.integration.serve_example import NAME
from tests.pipeline_run import kill_group
from tests.task_models import DELAY, OUTCOME, VECTORS, expected_answers, sealed_as

QUANTILES = replace(DELAY, coverage=0.8, quantiles=(0.25, 0.9), margins=(-5.0, 6.5))
PORT = 18_020
URL = f"http://127.0.0.1:{PORT}"


@contextmanager
def served(task: Task, state: Path, **environment: str) -> Iterator[Client]:
    digest = sealed_as(task)(state / "sealed" / "7", 7)
    driver = subprocess.Popen(
        [sys.executable, str(Path(__file__).parent / "serve_example.py"), str(PORT), str(state)],
        env={**os.environ, "EXAMPLE_SEALED": digest, **environment},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert driver.stdout is not None
        assert driver.stdout.readline().strip() == URL
        with Client(URL, api_key=(state / "admin_key").read_text()) as client:
            yield client
        os.killpg(driver.pid, signal.SIGINT)
        assert driver.wait(40) == 0
    finally:
        if driver.poll() is None:
            kill_group(driver)


def recorded(state: Path, request_id: str) -> pl.DataFrame:
    """The rows of a request with its labels, once both are on shared storage."""
    settings, deadline = Settings(state=str(state), data=str(state)), time.monotonic() + 60
    while time.monotonic() < deadline:
        rows = Ledger(settings, NAME).find(request_id).sort("row")
        said = Labels(Artifacts(settings.artifacts), NAME).of(rows)
        if rows.height and said.height:
            return rows.join(said, on=["request_id", "row"], how="left")
        time.sleep(0.5)
    raise AssertionError("nothing in the ledger")


def tensors(client: Client, state: Path) -> Any:
    """What a client of the protocol gets, in binary."""
    asked = []
    for name in ("origin", "distance", "carrier", "hour", "recent_delay"):
        values = [vector[name] for vector in VECTORS]
        text = isinstance(values[0], str)
        given = np.array(values, dtype=object) if text else np.array(values, dtype=np.float32)
        asked.append(triton.InferInput(name, [len(values)], "BYTES" if text else "FP32"))
        asked[-1].set_data_from_numpy(given)
    header = {"authorization": f"Bearer {(state / 'admin_key').read_text().strip()}"}
    with triton.InferenceServerClient(URL.removeprefix("http://")) as protocol:
        return protocol.infer(NAME, asked, headers=header)


@pytest.mark.timeout(180)
def test_a_number_is_asked_told_and_recorded(tmp_path: Path) -> None:
    answers = expected_answers(QUANTILES, VECTORS)
    expected = answers[:, 0]
    with served(QUANTILES, tmp_path) as client:
        answer = client.predict(NAME, features=VECTORS)
        assert [row.prediction for row in answer.predictions] == pytest.approx(expected, abs=1e-3)
        for row, (value, lower, upper) in zip(answer.predictions, answers, strict=True):
            assert (row.low, row.high) == (pytest.approx(value - 5, abs=1e-3), pytest.approx(value + 6.5, abs=1e-3))
            assert row.quantiles == pytest.approx({"0.25": lower, "0.9": upper}, abs=1e-3)
            assert lower < upper
        given = tensors(client, tmp_path)
        assert given.as_numpy("prediction") == pytest.approx(expected, abs=1e-3)
        assert given.as_numpy("quantiles") == pytest.approx(answers[:, 1:], abs=1e-3)
        told = [{"request_id": answer.request_id, "row": row, "label": 10.5 * row} for row in range(3)]
        assert client.send_labels(NAME, told) == 3
        with pytest.raises(DataError, match=r"labels\[0\]\.label: 'late' is not of type number"):
            client.send_labels(NAME, [{**told[0], "label": "late"}])
        rows = recorded(tmp_path, answer.request_id)
    assert rows["prediction"].to_list() == [row.prediction for row in answer.predictions]
    assert rows["quantiles"].to_list() == [list((row.quantiles or {}).values()) for row in answer.predictions]
    assert rows["label"].to_list() == [0.0, 10.5, 21.0]


@pytest.mark.timeout(180)
def test_classes_are_asked_of_a_model_apart_told_and_recorded(tmp_path: Path) -> None:
    expected = expected_answers(OUTCOME, VECTORS)
    names = [OUTCOME.classes[at] for at in expected.argmax(axis=1)]
    with served(OUTCOME, tmp_path, EXAMPLE_MODEL_APART="1") as client:
        answer = client.predict(NAME, features=VECTORS)
        assert [row.prediction for row in answer.predictions] == names
        found = [list((row.probabilities or {}).values()) for row in answer.predictions]
        assert np.array(found) == pytest.approx(expected, abs=1e-5)
        given = tensors(client, tmp_path)
        assert given.as_numpy("probabilities") == pytest.approx(expected, abs=1e-5)
        assert given.as_numpy("prediction").tolist() == [name.encode() for name in names]
        told = [{"request_id": answer.request_id, "row": row, "label": "late"} for row in range(3)]
        assert client.send_labels(NAME, told) == 3
        with pytest.raises(DataError, match=r"labels\[0\]\.label: 'diverted' is not one of the known values"):
            client.send_labels(NAME, [{**told[0], "label": "diverted"}])
        rows = recorded(tmp_path, answer.request_id)
    assert rows["probabilities"].to_list() == found
    assert rows["label"].to_list() == ["late"] * 3
