"""Another revision of monitoring is taken up between windows, by whoever goes on, and state says which judged what."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from mlops_ray.artifacts import Artifacts
from mlops_ray.governance.monitoring_definitions import MonitoringRevision
from mlops_ray.monitoring.build_reference import build_reference
from mlops_ray.monitoring.label_times import LabelTimes, declare_label_times, label_times, set_label_times
from mlops_ray.monitoring.version_watch import Watched
from mlops_ray.testing.example_model import FEATURES
from mlops_ray.testing.example_stream import BY_COUNT, BY_TIME, START, example_stream, write_example_segments
from mlops_ray.use_case import Monitoring, WindowSpec
from tests.unit.test_drift_watch import CALM, DAY, END, WATCHED, Watching, said, shifted, tell
from tests.unit.test_sealed_reference import use_case

NAME = "departures"
HALF_DAYS = WindowSpec(rows=200, minimum_rows=100)


@pytest.fixture(scope="module")
def other() -> Watched:
    """Daily windows as before, and shorter ones in place of those by count."""
    rows = example_stream(40, 1, START - timedelta(days=70))
    reference = build_reference(rows, "time", FEATURES, [BY_TIME, HALF_DAYS], rows, ["carrier"], false_alarm_days=60)
    return replace(WATCHED, reference=reference, revision=2)


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts(str(tmp_path / "artifacts"))


def test_open_windows_end_and_each_window_says_what_judged_it(artifacts: Artifacts, other: Watched) -> None:
    judged = {"by": WATCHED}
    found = Watching(artifacts, lambda version: replace(judged["by"], version=version))
    write_example_segments(artifacts, NAME, CALM.head(1000))
    found.rounds(now=START + timedelta(days=2.5))
    assert [record.revision for record in found.records()] == [0, 0]
    judged["by"] = other
    found.watch.define(2)
    ids = write_example_segments(artifacts, NAME, CALM)
    state = found.rounds()
    watch = state.watches["7"]
    assert watch.revision == 2
    assert [record.revision for record in found.records()] == [0, 0]  # 200 rows of the third are in no window
    assert watch.streams[BY_COUNT.name].state.open is None
    assert [(record.rows, record.revision) for record in found.records(HALF_DAYS.name)] == [(200, 2)] * 3
    daily = found.records(BY_TIME.name)
    assert [(record.rows, record.revision) for record in daily] == [(400, 0), (400, 0), (400, 2)]  # it went on
    tell(artifacts, said(CALM, ids))
    found.rounds(now=END + DAY)
    by_carrier = {"all", "carrier=AA", "carrier=UA"}
    assert all({one.slice for one in record.quality} == by_carrier for record in found.records(BY_TIME.name))
    assert [record.concept_revision for record in found.records(BY_TIME.name)] == [2, 2, 2, 2]
    assert not any(record.quality for record in found.records())  # of a kind that is not watched any more


def test_a_process_that_died_in_between_goes_on_with_the_new_revision(artifacts: Artifacts, other: Watched) -> None:
    found = Watching(artifacts, lambda version: replace(WATCHED, version=version))
    write_example_segments(artifacts, NAME, shifted(CALM))
    found.rounds()
    assert ("raised", "data") in found.raised()
    after = Watching(artifacts, lambda version: replace(other, version=version))
    after.rounds(1)
    assert after.state.watches["7"].revision == 2
    raised = {change.id for change in found.announced}
    assert {change.id for change in after.announced if change.kind == "resolved"} == raised
    assert "revision 2" in after.announced[-1].title
    state = after.state.to_bytes()
    after.again()
    assert after.rounds().to_bytes() == state
    assert after.state.rows == {"7": 1600}


def test_label_times_that_were_set_go_before_those_that_are_declared(artifacts: Artifacts) -> None:
    declared = use_case(labels_count_for=timedelta(days=30))
    wanted = Monitoring(labels_count_for=timedelta(days=9), labels_complete_after=timedelta(days=2)).to_json()
    revision = MonitoringRevision(NAME, 1, wanted, "d", "ann", None, START, "why")
    set_label_times(artifacts, NAME, revision)
    declare_label_times(artifacts, declared)
    assert label_times(artifacts, NAME) == LabelTimes(timedelta(days=9), timedelta(days=2))
    set_label_times(artifacts, NAME, replace(revision, revision=2, definition=None))
    assert label_times(artifacts, NAME) == LabelTimes(timedelta(days=30), timedelta(days=30))
