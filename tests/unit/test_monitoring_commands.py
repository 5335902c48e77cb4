"""`mlops-ray monitoring`: shown, set and tried on the past, for a use case that runs."""

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

from mlops_ray.artifacts import Artifacts
from mlops_ray.cli.main import app
from mlops_ray.config import load_settings
from mlops_ray.errors import ConfigurationError
from mlops_ray.governance.champion import set_champion
from mlops_ray.governance.control_store import open_store
from mlops_ray.governance.events import Actor
from mlops_ray.governance.live import VersionRef
from mlops_ray.governance.versions import Evidence, record_version
from mlops_ray.monitoring.drift_actor import open_watch
from mlops_ray.monitoring.watch_state import read_state
from mlops_ray.testing.example_stream import BY_COUNT, START, example_stream, write_example_segments
from mlops_ray.use_case import Monitoring, WindowSpec
from tests.unit.test_drift_watch import said, shifted, tell
from tests.unit.test_sealed_reference import files, sealed, use_case

NAME = "departures"
END = START + timedelta(days=8)
UNTIL = END + timedelta(hours=4)
SPAN = ("--from", START.isoformat(), "--to", UNTIL.isoformat())
Command = Callable[..., str]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("sealed")
    return folder, sealed(folder, files(use_case(false_alarm_days=30)))


@pytest.fixture
def platform(tmp_path: Path, model: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """A champion with eight days of traffic, of which the last four have drifted, watched as it was sealed."""
    folder, digest = model

    class Registry:
        def __init__(self, settings: Any = None) -> None: ...

        def find(self, name: str, version: int) -> VersionRef:
            return VersionRef(version, digest)

        def fetch(self, name: str, version: VersionRef, target: Path) -> Path:
            return folder

    monkeypatch.setattr("mlops_ray.monitoring.foreign_model.MlflowRegistry", Registry)
    settings = load_settings(state=str(tmp_path), data=str(tmp_path))
    store, ann = open_store(settings), Actor("ann", ("operate",))
    set_champion(store, ann, NAME, record_version(store, ann, NAME, 7, Evidence(digest, "e")).ref, "first")
    artifacts = Artifacts(settings.artifacts)
    rows = pl.concat([example_stream(4, 12), shifted(example_stream(4, 13, START + timedelta(days=4)))])
    rows = rows.with_columns(as_of="time", time=END + pl.int_range(len(rows)) * timedelta(seconds=2))  # replayed
    tell(artifacts, said(rows, write_example_segments(artifacts, NAME, rows), timedelta(hours=1)))
    watch = open_watch(settings, Registry(), NAME, store)
    for _ in range(3):
        watch.round(UNTIL, ["7"])
    return settings, store, watch


@pytest.fixture
def command(platform: Any, tmp_path: Path) -> Command:
    def run(*words: str) -> str:
        done = CliRunner().invoke(app, ["monitoring", *words, "--state", str(tmp_path)], catch_exceptions=False)
        return done.output

    return run


def test_what_holds_is_shown_set_and_listed_with_who_and_why(platform: Any, command: Command, tmp_path: Path) -> None:
    shown = command("show", NAME)
    assert "Nobody has set it" in shown
    assert "windows: 400 rows" in shown
    assert "Version 7: as it was sealed." in shown
    file = tmp_path / "wanted.json"
    wanted = json.loads(command("show", NAME, "--json")) | {"false_alarm_days": 90, "slices": ["carrier"]}
    file.write_text(json.dumps(wanted))
    assert "at revision 1" in command("set", NAME, str(file), "--reason", "too many alarms", "--revision", "0")
    shown = command("show", NAME)
    for part in ("too many alarms", "false_alarm_days: 90", "slices: carrier", "Version 7: revision 1."):
        assert part in shown
    command("set", NAME, "--as-sealed", "--reason", "it was right")
    listed = command("history", NAME)
    assert [line.split()[0] for line in listed.splitlines() if line[0].isdigit()] == ["1", "2"]
    assert "it was right" in listed
    file.write_text(json.dumps(wanted | {"slices": ["destination"]}))
    with pytest.raises(ConfigurationError, match="slices by destination need that column"):
        command("set", NAME, str(file), "--reason", "why not")
    assert "destination" not in command("history", NAME)


def test_the_past_shows_what_a_definition_would_have_found_and_touches_no_state(
    platform: Any, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlops_ray.monitoring.backtest._MOST_STEPS", 16)
    settings, _, _ = platform
    artifacts = Artifacts(settings.artifacts)
    before = read_state(artifacts, NAME).to_bytes()
    same = command("backtest", NAME, *SPAN)
    assert "3,200 predictions from 2026-03-10 00:00" in same
    assert f"windows of {BY_COUNT.name}: 8 would have been judged, 8 were." in same
    assert "only would" not in same
    assert "only did" not in same
    assert "Would have raised 0 alarms" not in same
    file = tmp_path / "wanted.json"
    other = Monitoring(windows=(WindowSpec(rows=800, minimum_rows=200),), false_alarm_days=30)
    file.write_text(json.dumps(other.to_json()))
    found = command("backtest", NAME, str(file), *SPAN)
    assert "windows of 800 rows: 4 would have been judged, 0 were." in found
    assert "windows of 400 rows: 0 would have been judged, 8 were." in found
    assert "data: 2 would drift, 0 did." in found
    assert read_state(artifacts, NAME).to_bytes() == before
    assert "Nobody has set it" in command("history", NAME)
