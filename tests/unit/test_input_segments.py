"""A shift in one part of the inputs is found where it is, and calm segments alarm no more often than was promised."""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from mlops_ray.artifacts import Artifacts
from mlops_ray.errors import ConfigurationError, UseCaseError
from mlops_ray.monitoring.build_reference import build_reference
from mlops_ray.monitoring.definition import defined_reference
from mlops_ray.monitoring.drift_watch import DriftWatch
from mlops_ray.monitoring.input_segments import with_segments
from mlops_ray.monitoring.judging import judge
from mlops_ray.monitoring.reference import Reference
from mlops_ray.monitoring.sealed_reference import SealedReference, read_reference
from mlops_ray.monitoring.seasons import cell_counts
from mlops_ray.monitoring.verdicts import Verdict
from mlops_ray.monitoring.version_watch import Watched
from mlops_ray.monitoring.windows import WindowState, add
from mlops_ray.testing.example_model import FEATURES
from mlops_ray.testing.example_stream import BY_COUNT, PER_DAY, START, answered, example_stream, write_example_segments
from mlops_ray.use_case import Monitoring
from tests.unit.test_sealed_reference import files, sealed, use_case

DAY = timedelta(days=1)
BY_ORIGIN = {"origin": ("distance", "carrier")}
JFK = "distance [origin=JFK]"
PAST = 40


def apart(rows: pl.DataFrame, turned: bool = False) -> pl.DataFrame:
    """From JFK distances are short and from LGA long; turned: the other way round, so all together are as before."""
    short, long = ("LGA", "JFK") if turned else ("JFK", "LGA")
    half = pl.when(pl.col("origin") == short).then(0.3).when(pl.col("origin") == long).then(1.0).otherwise(0.6)
    return rows.with_columns(distance=pl.col("distance") * half)


def learned(seed: int = 1, segments: Mapping[str, tuple[str, ...]] = BY_ORIGIN, **options: Any) -> Reference:
    rows = apart(example_stream(PAST, seed, START - (PAST + 10) * DAY))
    return build_reference(rows, "time", FEATURES, [BY_COUNT], segments=segments, **options)


def judged(reference: Reference, rows: pl.DataFrame) -> list[Verdict]:
    rows = with_segments(rows, reference.segments.values())
    moment = rows["time"].dt.replace_time_zone(None).to_numpy().astype("datetime64[us]")
    found = add(WindowState(BY_COUNT, reference.empty_columns()), rows, moment, rows["time"][-1], moment)
    return [judge(window, reference, BY_COUNT.name, importance={"distance": 1.0}) for window in found.finished]


def test_a_shift_that_is_made_up_for_elsewhere_is_found_in_its_segments() -> None:
    turned = apart(example_stream(4, 9), turned=True)
    assert not any("distance" in {f.column for f in one.findings} for one in judged(learned(segments={}), turned))
    for verdict in judged(learned(), turned):
        assert {JFK, "distance [origin=LGA]"} <= {finding.column for finding in verdict.findings}
        assert "distance [origin=EWR]" not in {finding.column for finding in verdict.findings}
        assert "missing" not in verdict.reason
        assert verdict.importance == pytest.approx(2 / 3, abs=0.1), "two of three parts of the feature's"


def test_calm_segments_alarm_no_more_often_than_was_promised() -> None:
    """One window in ten is stated; a window is a day."""
    alarms = windows = 0
    for seed in range(3):
        verdicts = judged(learned(10 + seed, false_alarm_days=8), apart(example_stream(60, 20 + seed)))
        alarms, windows = alarms + sum(one.answer == "drift" for one in verdicts), windows + len(verdicts)
    assert windows == 180
    assert alarms <= 0.2 * windows


def test_how_many_are_in_a_segment_is_no_drift_within_it() -> None:
    reference, rows = learned(), apart(example_stream(4, 9))
    fewer = rows.filter((pl.col("origin") != "JFK") | (pl.int_range(pl.len()) % 4 == 0))
    names = {finding.column for verdict in judged(reference, fewer) for finding in verdict.findings}
    assert "origin" in names
    assert JFK not in names


def test_the_watch_finds_it_in_the_ledger_which_knows_no_segments(tmp_path: Path) -> None:
    artifacts, announced = Artifacts(str(tmp_path)), list[Any]()
    watched = Watched("7", learned(), {"distance": 3.0, "hour": 1.0})
    watch = DriftWatch(artifacts, "departures", lambda version: watched, announced.append)
    rows = pl.concat([apart(example_stream(2, 9)), apart(example_stream(2, 10, START + 2 * DAY), turned=True)])
    write_example_segments(artifacts, "departures", answered(rows.drop("probability", "label")))
    watch.round(START + 5 * DAY, ["7"])
    first = next(change for change in announced if change.kind == "raised" and change.question == "data")
    assert JFK in first.payload["columns"]
    assert first.since == START + 2 * DAY
    assert first.severity != "info"
    assert watch.state.rows["7"] == 4 * PER_DAY
    assert watch.importance("7")[JFK] == pytest.approx(0.75 / 3, abs=0.02)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> SealedReference:
    folder = tmp_path_factory.mktemp("sealed")
    found = read_reference(folder, sealed(folder, files(use_case())))
    assert found is not None
    return found


def test_segments_are_set_beside_the_model_as_sealing_would_have_made_them(model: SealedReference) -> None:
    by_origin = {"origin": ("hour",)}
    wanted = Monitoring(windows=(BY_COUNT,), false_alarm_days=5, segments=by_origin)
    assert Monitoring.from_json(wanted.to_json()) == wanted
    assert "segments" not in Monitoring().to_json(), "the release before knows of none"
    made = defined_reference(model, wanted)
    anew = Reference.from_files(files(use_case(segments=by_origin)))
    assert made.segments == anew.segments
    assert len(made.segments) == 3
    assert made.windows == anew.windows
    for name in made.segments:
        assert np.array_equal(cell_counts(made.columns[name]), cell_counts(anew.columns[name]))
    assert Reference.from_files(made.to_files()).segments == made.segments
    assert list(made.inputs) == list(model.reference.inputs)


@pytest.mark.parametrize(
    ("segments", "said"),
    [
        ({"hour": ("origin",)}, "hour, which is no category that is watched"),
        ({"origin": ("weight",)}, "'weight' is not a feature"),
    ],
)
def test_segments_of_what_is_not_watched_are_refused(
    model: SealedReference, segments: dict[str, tuple[str, ...]], said: str
) -> None:
    with pytest.raises(UseCaseError, match=f"segment.*{said}"):
        files(use_case(segments=segments))
    with pytest.raises(ConfigurationError, match="segments"):
        defined_reference(model, Monitoring(windows=(BY_COUNT,), segments=segments))
