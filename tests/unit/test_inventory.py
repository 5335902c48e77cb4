"""The inventory: every use case with its owner, what is live, and what is open."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mlops_ray.cli.main import app
from mlops_ray.governance.alarms import raise_alarm
from mlops_ray.governance.champion import set_champion
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import Actor
from mlops_ray.governance.inventory import inventory
from mlops_ray.governance.versions import Evidence, VersionRef, record_version

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ANN = Actor("ann", ("operate",))


def test_the_inventory_lists_every_use_case_and_how_it_stands(
    store: ControlStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, version in (("trains", 1), ("flights", 1), ("flights", 2)):
        record_version(store, ANN, name, version, Evidence(f"{name}{version}", "e"), now=NOW)
    set_champion(store, ANN, "flights", VersionRef(1, "flights1"), "first")
    raise_alarm(store, "flights", 1, "a1", "Drift of hour", "warning", NOW, {"question": "concept"})
    flights, trains = inventory(store, NOW)
    assert (flights.use_case, flights.live_version, flights.newest_version) == ("flights", 1, 2)
    assert (flights.registered_at, flights.open_alarms, flights.approval) == (NOW, 1, "")
    assert flights.live_since
    assert (trains.use_case, trains.live_version, trains.live_since, trains.open_alarms) == ("trains", None, None, 0)

    (tmp_path / "use_cases").mkdir()
    (tmp_path / "use_cases" / "trains.py").write_text("broken(")
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["inventory", "--state", str(tmp_path)], catch_exceptions=False)
    first, second = done.output.splitlines()
    assert "owner: not known here" in first
    assert "version 1 live since" in first
    assert first.endswith("approval: none asked  newest: 2, registered 2026-03-01 12:00:00Z  1 open alarms")
    assert "owner: its file does not load" in second
    assert "nothing live" in second
