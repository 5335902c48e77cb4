"""Many small files of labels become one that says the same, whoever reads or is killed meanwhile."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from mlops_ray.artifacts import Artifacts
from mlops_ray.batch.labels import import_labels
from mlops_ray.config import Settings
from mlops_ray.monitoring.quality import join_labels
from mlops_ray.predictions import label_compaction
from mlops_ray.predictions.ids import uuid7_at
from mlops_ray.predictions.label_compaction import LEAST_FILES, compact_labels
from mlops_ray.predictions.label_writer import LabelWriter
from mlops_ray.predictions.labels import Label, LabelKeys, Labels, write_by_request
from mlops_ray.retraining.new_labels import NewLabels
from mlops_ray.testing.example_model import example_schema
from tests.unit.test_ledger import Clock, settings_in

NAME = "departures"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
IDS = [uuid7_at(int(NOON.timestamp() * 1000) + number) for number in range(LEAST_FILES)]
KEYS = LabelKeys(example_schema(), None)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """As many files as are worth merging, by request and by keys, each with a correction of the one before."""
    settings = settings_in(tmp_path)
    for number, request_id in enumerate(IDS):
        with LabelWriter(settings, NAME, clock=Clock(NOON + timedelta(seconds=number))) as writer:
            writer.append([Label(True, request_id=request_id), Label(False, request_id=IDS[number - 1])])
            keys = {"carrier": "AA", "origin": "JFK", "departure": NOON + timedelta(minutes=number)}
            writer.append([Label(bool(number % 2), keys=keys)], KEYS)
    return settings


def about() -> pl.DataFrame:
    """The predictions that were labelled: by request, and one by keys."""
    by_id = pl.DataFrame({"request_id": IDS}).with_columns(row=pl.lit(0, pl.Int32))
    keyed = pl.DataFrame(
        {"request_id": ["k"], "row": [0], "key.carrier": ["AA"], "key.origin": ["JFK"], "key.departure": [NOON]},
        schema_overrides={"row": pl.Int32, "key.departure": pl.Datetime("us", "UTC")},
    )
    return pl.concat([by_id, keyed], how="diagonal")


def said(settings: Settings) -> list[Any]:
    found = Labels(Artifacts(settings.artifacts), NAME).of(about())
    return join_labels(about(), found).sort("request_id")["label"].to_list()


def test_a_day_s_files_become_one_that_says_the_same(settings: Settings) -> None:
    artifacts, before = Artifacts(settings.artifacts), said(settings)
    assert before == [False] * (LEAST_FILES - 1) + [True, False]
    counted = NewLabels(settings, NAME)
    labels = counted(None, NOON + timedelta(days=1))
    assert compact_labels(artifacts, NAME) == 2 * LEAST_FILES
    assert sorted(one.part for one in Labels(artifacts, NAME).segments()) == ["2026-03-01", "keys-2026-03-01"]
    assert said(settings) == before
    assert counted(None, NOON + timedelta(days=1)) == labels
    assert compact_labels(artifacts, NAME) == 0


def test_killed_before_the_files_are_deleted_each_label_counts_once(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifacts, before = Artifacts(settings.artifacts), said(settings)
    with monkeypatch.context() as patched:

        def killed(*given: Any) -> None:
            raise OSError("killed")

        patched.setattr(label_compaction, "delete_labels", killed)
        with pytest.raises(OSError, match="killed"):
            compact_labels(artifacts, NAME)
    assert said(settings) == before
    compact_labels(artifacts, NAME)
    assert said(settings) == before
    rows = Labels(artifacts, NAME).read(Labels(artifacts, NAME).segments())
    assert rows.height == rows.unique().height == 2 * LEAST_FILES


def test_who_reads_while_files_are_merged_reads_again(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    artifacts, before, real, merged = Artifacts(settings.artifacts), said(settings), Labels._read, []

    def late(labels: Labels, segment: Any) -> pl.DataFrame:
        if not merged:
            merged.append(compact_labels(artifacts, NAME))
        return real(labels, segment)

    monkeypatch.setattr(Labels, "_read", late)
    assert said(settings) == before
    assert merged == [2 * LEAST_FILES]


def test_files_with_other_columns_and_imported_ones_stay_as_they_are(settings: Settings, tmp_path: Path) -> None:
    artifacts = Artifacts(settings.artifacts)
    (tmp_path / "labels.csv").write_text(f"request_id,label\n{IDS[0]},true\n")
    import_labels(str(tmp_path / "labels.csv"), NAME, settings)
    odd = pl.DataFrame({"request_id": [IDS[0]], "row": [0], "label": [True], "more": ["x"]})
    write_by_request(artifacts, NAME, "odd", odd.with_columns(known_at=pl.lit(NOON), received_at=pl.lit(NOON)))
    compact_labels(artifacts, NAME)
    left = {one.id.partition("-")[0] for one in Labels(artifacts, NAME).segments()}
    assert left == {"merged", "file", "odd"}
