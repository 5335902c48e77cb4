"""What replicas and collectors of before answers of several kinds wrote is read; also while both are at work."""

import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest
import uuid6

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.predictions.collect import collect_leftovers
from mlops_ray.predictions.compaction import compact
from mlops_ray.predictions.label_writer import FOLDER, LabelWriter
from mlops_ray.predictions.labels import labels_of
from mlops_ray.predictions.reader import Ledger
from mlops_ray.predictions.segments import COLUMNS, read_segment, segments, write_segment
from mlops_ray.predictions.wal import WalFile
from mlops_ray.predictions.writer import LedgerWriter
from mlops_ray.registry.model_schema import ModelSchema
from mlops_ray.tasks.multiclass import MultiClass
from mlops_ray.testing.example_model import example_schema
from tests.task_models import OUTCOME

NAME = "departures"
ONE, TWO = str(uuid6.uuid7()), str(uuid6.uuid7())


def now_us() -> int:
    return int(time.time() * 1e6)


def write(folder: Path, *frames: object) -> None:
    """A write-ahead file as its writer leaves it."""
    file = WalFile.create(folder, now_us())
    for frame in frames:
        file.append(msgspec.msgpack.encode(frame))
    file.close()


def schema_of_classes(classes: tuple[str, ...]) -> ModelSchema:
    return ModelSchema(**{**vars(example_schema()), "task": MultiClass(classes)})


def append_classes(
    settings: Settings, version: str, classes: tuple[str, ...], request_id: str, reasons: Any = ()
) -> None:
    answer = np.full((2, len(classes)), 1 / len(classes), dtype=np.float32)
    writer = LedgerWriter(settings, NAME)
    writer.add_version(version, schema_of_classes(classes))
    writer.append(
        version,
        request_id=request_id,
        route="champion",
        keys=None,
        numbers=np.zeros((2, 3), dtype=np.float32),
        categories=np.full((2, 2), "x", dtype=object),
        answer=answer,
        latency_s=0.001,
        reasons=reasons,
    )
    writer.close()


def test_a_file_of_a_replica_of_before_becomes_rows_beside_those_of_today(tmp_path: Path) -> None:
    settings = Settings(state=str(tmp_path), data=str(tmp_path))
    schema = [0, 1, "7", [["carrier", "text"]], ["distance"], ["origin"]]
    numbers, answer = np.float32([500, 600]).tobytes(), np.float32([0.25, 0.75]).tobytes()
    record = [1, "7", ONE, now_us(), now_us(), "champion", 0.001, [["AA"], ["UA"]], numbers, ["JFK", ""], answer]
    write(Path(settings.ledger_wal, NAME), schema, record)
    collect_leftovers(Path(settings.ledger_wal), Artifacts(settings.artifacts))
    rows = Ledger(settings, NAME).find(ONE)
    assert rows["probability"].to_list() == [0.25, 0.75]
    assert rows["key.carrier"].to_list() == ["AA", "UA"]
    append_classes(settings, "8", OUTCOME.classes, TWO)
    for _ in range(2):
        both = Ledger(settings, NAME).frame().sort("request_id", "row")
        assert both["probability"].to_list() == [0.25, 0.75, None, None]
        assert both["probabilities"].is_null().to_list() == [True, True, False, False]
        compact(Artifacts(settings.artifacts), NAME, lambda segment: True)


def test_versions_with_other_classes_lie_in_one_ledger(tmp_path: Path) -> None:
    settings = Settings(state=str(tmp_path), data=str(tmp_path))
    append_classes(settings, "1", OUTCOME.classes, ONE)
    append_classes(settings, "2", (*OUTCOME.classes, "diverted"), TWO)
    for _ in range(2):
        rows = Ledger(settings, NAME).frame().sort("request_id", "row")
        assert rows["probabilities"].list.len().to_list() == [3, 3, 4, 4]
        assert rows["feature.origin"].to_list() == ["x"] * 4
        compact(Artifacts(settings.artifacts), NAME, lambda segment: True)


def test_a_table_and_segments_without_reasons_lie_beside_those_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(state=str(tmp_path), data=str(tmp_path))
    artifacts = Artifacts(settings.artifacts)
    with monkeypatch.context() as before:
        before.delitem(COLUMNS, "reasons")
        append_classes(settings, "1", OUTCOME.classes, ONE)
        (segment,) = segments(artifacts, NAME)
        write_segment(artifacts, NAME, segment.id, read_segment(segment.url).drop("reasons"))
        compact(artifacts, NAME, lambda segment: True)
    append_classes(settings, "1", OUTCOME.classes, TWO, [None, {"contributions": {}}])
    for _ in range(2):
        rows = Ledger(settings, NAME).frame().sort("request_id", "row")
        assert rows["reasons"].to_list() == [None, None, None, '{"contributions":{}}']
        assert Ledger(settings, NAME).find(ONE)["reasons"].to_list() == [None, None]
        compact(artifacts, NAME, lambda segment: True)


def test_an_empty_ledger_has_the_columns_of_yes_and_no(tmp_path: Path) -> None:
    assert Ledger(Settings(state=str(tmp_path), data=str(tmp_path)), NAME).frame().schema["probability"] == pl.Float32


def test_labels_that_were_told_before_are_yes_or_no(tmp_path: Path) -> None:
    settings = Settings(state=str(tmp_path), data=str(tmp_path))
    write(Path(settings.ledger_wal, FOLDER, NAME), [1, now_us(), [[ONE, 0, True, now_us()]], []])
    LabelWriter(settings, NAME).collect()
    said = labels_of(NAME, pl.DataFrame({"request_id": [ONE], "row": pl.Series([0], dtype=pl.Int32)}), settings)
    assert (said["label"].dtype, said["label"].to_list()) == (pl.Boolean, [True])
