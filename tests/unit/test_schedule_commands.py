"""`mlops-ray schedule`: declared, shown, paused, made up for and carried out from the command line."""

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest.mock import MagicMock

import pytest
from sqlalchemy import update
from typer.testing import CliRunner, Result

from mlops_ray.cli.main import app
from mlops_ray.cli.schedule import declare
from mlops_ray.config import Prices, load_settings
from mlops_ray.cost.meter import ORDER, metered
from mlops_ray.cost.usage import Usage
from mlops_ray.errors import ConfigurationError, DataError, MlopsRayError
from mlops_ray.governance import schedule_runs, schedules, tables
from mlops_ray.governance.alarms import raise_alarm
from mlops_ray.governance.control_store import open_store
from mlops_ray.governance.events import SYSTEM
from mlops_ray.operations import carry_out
from mlops_ray.operations.due import decide
from mlops_ray.operations.scheduler import Scheduler
from mlops_ray.use_case import load_use_case

CASE = """
import polars as pl

from mlops_ray import Column, Label, Schedule, Source, UseCase


class Nothing:
    name = "none"
    space = {}

    def fit(self, *arguments):
        raise NotImplementedError


CASE = UseCase(
    name="trains",
    sources={"trains": Source("*.csv", (Column("train", "text"), Column("time", "timestamp")), )},
    entities=("train",),
    event_time="time",
    label=Label("late", pl.lit(True), pl.col("time")),
    candidates=(Nothing(),),
    time_zone="Europe/Berlin",
    schedules={"audit": Schedule("0 * * * *"), "features": Schedule("30 2 * * *", "America/New_York", catch_up=True)},
)
"""
OFFSET = {"time_zone": "+02:00"}
Command = Callable[..., Result]


@pytest.fixture
def file(tmp_path: Path) -> str:
    (tmp_path / "trains.py").write_text(CASE)
    return str(tmp_path / "trains.py")


@pytest.fixture
def command(tmp_path: Path) -> Command:
    def run(*words: str) -> Result:
        return CliRunner().invoke(app, [*words, "--state", str(tmp_path / "state")], catch_exceptions=False)

    return run


@pytest.fixture
def declared(tmp_path: Path, file: str) -> None:
    settings = load_settings(state=str(tmp_path / "state"), data=str(tmp_path))
    declare(settings, load_use_case(file), file, None)


@pytest.mark.usefixtures("declared")
def test_what_is_declared_is_listed_by_the_clock_that_counts(command: Command) -> None:
    audit, features = command("schedule", "list").stdout.splitlines()
    assert "trains  audit  '0 * * * *' Europe/Berlin  skips what it missed  due " in audit
    assert "'30 2 * * *' America/New_York  catches up" in features
    assert features.endswith("no run yet")


@pytest.mark.usefixtures("declared")
def test_a_schedule_that_an_older_release_took_in_hides_no_other(
    command: Command, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(load_settings(state=str(tmp_path / "state"), data=str(tmp_path)))
    with store.transaction() as connection:
        connection.execute(update(tables.schedules).where(tables.schedules.c.operation == "audit"), OFFSET)
    audit, features = command("schedule", "list").stdout.splitlines()
    assert "'0 * * * *' +02:00" in audit
    assert "never due: Schedule: time_zone '+02:00'" in audit
    assert "  due 20" in features
    first, second = json.loads(command("schedule", "list", "--json").stdout)
    assert (first["due_at"], second["due_at"][:2]) == (None, "20")
    assert first["problem"].startswith("Schedule: time_zone '+02:00'")
    assert second["problem"] is None
    assert Scheduler(store, MagicMock()).round()
    (told,) = caplog.records
    assert "trains audit: Schedule: time_zone '+02:00'" in told.getMessage()
    assert told.exc_info is None


@pytest.mark.usefixtures("declared")
def test_pausing_is_shown_and_needs_a_schedule(command: Command) -> None:
    command("schedule", "pause", "trains", "audit", "--reason", "upgrade")
    assert "paused since" in command("schedule", "list", "trains").stdout.splitlines()[0]
    command("schedule", "resume", "trains", "audit", "--reason", "done")
    assert "paused since" not in command("schedule", "list").stdout
    command("schedule", "pause", "trains", "audit", "--reason", "upgrade")
    said = command("schedule", "pause", "trains", "audit", "--reason", "something else").stdout
    assert "is paused already, by development on" in said
    assert said.endswith("upgrade\n")
    with pytest.raises(ConfigurationError, match=r"ingest of trains has no schedule \(declared: audit, features\)"):
        command("schedule", "pause", "trains", "ingest", "--reason", "x")


@pytest.mark.usefixtures("declared")
def test_a_backfill_says_how_much_waits(command: Command) -> None:
    span = ("--from", "2024-03-30T00:00-04:00", "--to", "2024-04-02T00:00-04:00", "--reason", "new columns")
    said = command("schedule", "backfill", "trains", "features", *span).stdout
    assert said.startswith("3 of 3 runs wait now")
    assert command("schedule", "backfill", "trains", "features", *span).stdout.startswith("0 of 3 runs")
    found = [json.loads(line) for line in command("schedule", "history", "trains", "--json").stdout.splitlines()]
    assert [(one["state"], one["cause"], one["duration_s"]) for one in found] == [("waiting", "backfill", None)] * 3
    with pytest.raises(ConfigurationError, match="Nothing was due"):
        command("schedule", "backfill", "trains", "features", *span[:3], "2024-03-01T00:00Z", *span[4:])


@pytest.mark.usefixtures("declared")
def test_a_backfill_of_many_runs_says_which_and_asks(command: Command) -> None:
    span = ("trains", "features", "--from", "2004-01-01T00:00Z", "--to", "2024-01-01T00:00Z", "--reason", "mistyped")
    asked = command("schedule", "backfill", *span)
    assert asked.exit_code == 1
    assert "7,305 runs were due, the first 2004-01-01 07:30 UTC, the last 2023-12-31 07:30 UTC." in asked.stdout
    assert command("schedule", "history", "trains", "--json").stdout == ""
    assert "7305 of 7305 runs wait" in command("schedule", "backfill", *span, "--yes").stdout
    assert "7305 runs that waited" in command("schedule", "backfill", *span, "--cancel").stdout
    assert "0 runs that waited" in command("schedule", "backfill", *span, "--cancel").stdout


@pytest.mark.usefixtures("declared")
def test_schedules_of_a_use_case_that_there_is_no_more_are_removed(command: Command) -> None:
    command("schedule", "remove", "trains", "features", "--reason", "x")
    assert [line.split()[1] for line in command("schedule", "list").stdout.splitlines()] == ["audit"]
    command("schedule", "remove", "trains", "--reason", "renamed")
    assert "Nothing is scheduled" in command("schedule", "list").stdout
    with pytest.raises(ConfigurationError, match="trains has no schedules"):
        command("schedule", "remove", "trains", "--reason", "again")


def ordered(tmp_path: Path, file: str) -> tuple[str, ...]:
    """What the scheduler orders of a run that is due in an hour, by the clock of the node that is told."""
    store = open_store(load_settings(state=str(tmp_path / "state"), data=str(tmp_path)))
    late = datetime.now(UTC) + timedelta(hours=2)
    schedule_runs.decide_next(store, "trains", "audit", decide, late)
    (run,) = schedule_runs.running(store)
    return "schedule", "run", file, "audit", "--due", run.due_at.isoformat(), "--ordered", run.submission


@pytest.mark.usefixtures("declared")
def test_a_run_that_was_ordered_is_carried_out_also_where_the_clock_lags(
    command: Command, file: str, tmp_path: Path
) -> None:
    assert command(*ordered(tmp_path, file)).exit_code == 0
    assert "succeeded" in command("schedule", "history", "trains").stdout


@pytest.mark.usefixtures("declared")
@pytest.mark.parametrize("is_there", [True, False])
def test_a_run_of_a_use_case_that_was_renamed_or_deleted_fails_with_that_reason(
    command: Command, file: str, tmp_path: Path, is_there: bool
) -> None:
    words, why = ordered(tmp_path, file), "now declares buses, not trains" if is_there else "trains.py"
    if is_there:
        Path(file).write_text(CASE.replace('name="trains"', 'name="buses"'))
    else:
        Path(file).unlink()
    with pytest.raises(MlopsRayError, match=why):
        command(*words)
    run = json.loads(command("schedule", "history", "trains", "--json").stdout.splitlines()[-1])
    assert run["state"] == "failed"
    assert why in run["detail"]


@pytest.mark.parametrize(
    "moment", ["0001-01-01T00:00Z", "0001-01-01T00:00+10:00", "9999-12-31T23:59-10:00", "1026-01-01T00:00Z"]
)
def test_a_moment_of_no_sensible_year_is_refused(command: Command, file: str, moment: str) -> None:
    with pytest.raises(ConfigurationError, match="outside the years from 1970 to 2200"):
        command("schedule", "run", file, "audit", "--due", moment)


def test_a_run_by_hand_is_done_once_and_kept_with_how_long_it_took(command: Command, file: str) -> None:
    words = ("schedule", "run", file, "audit", "--due", "2024-05-01T00:00Z")
    assert command(*words).exit_code == 0
    assert "nothing to do" in command(*words).stdout
    (found,) = [json.loads(line) for line in command("schedule", "history", "trains", "--json").stdout.splitlines()]
    assert (found["state"], found["cause"], found["attempt"]) == ("succeeded", "by hand", 1)
    assert found["duration_s"] > 0.1


def test_what_all_attempts_at_a_run_used_is_shown_with_it(
    command: Command, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def metered_work(environment: dict[str, str], limit: timedelta, words: Sequence[str]) -> tuple[int, str]:
        assert limit == timedelta(days=1)
        monkeypatch.setenv(ORDER, environment[ORDER])
        for _ in range(2):
            with metered(settings, "trains") as meter, meter.step("ingest", "k"):
                meter.trial("t", Usage(gpu_s=1.5), "running")  # of no process, so that it is known how much it was
        monkeypatch.delenv(ORDER)
        with metered(settings, "trains") as meter, meter.step("ingest", "k"):
            meter.trial("t", Usage(gpu_s=100.0), "running")
        return 0, ""

    prices = Prices(currency="EUR", cpu_hour=0, memory_gb_hour=0, gpu_hour=3600.0, read_gb=0, written_gb=0)
    settings = load_settings(state=str(tmp_path / "state"), data=str(tmp_path)).model_copy(update={"prices": prices})
    monkeypatch.setattr(carry_out, "execute", metered_work)
    assert command("schedule", "run", file, "audit", "--due", "2024-05-01T00:00Z").exit_code == 0
    (found,) = [json.loads(line) for line in command("schedule", "history", "trains", "--json").stdout.splitlines()]
    assert found["cost"]["amounts"] == {"EUR": pytest.approx(3.0)}
    assert "CPU s  3 EUR" in command("schedule", "history", "trains").stdout


def test_a_run_finds_the_data_of_its_own_command_also_in_a_job(
    command: Command, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There the default is nowhere, and what verifies the audit log has no --data."""
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert command("schedule", "run", file, "audit", "--data", str(tmp_path)).exit_code == 0


def test_a_run_that_fails_says_so_by_its_exit_code_and_can_be_repeated(
    command: Command, file: str, tmp_path: Path
) -> None:
    settings = load_settings(state=str(tmp_path / "state"), data=str(tmp_path))
    store = open_store(settings)
    raise_alarm(store, "trains", 1, "a", "Less punctual.", "warning", datetime.now(UTC), {"question": "concept"})
    words = ("schedule", "run", file, "monitoring", "--due", "2024-05-01T00:00Z")
    for attempt in (1, 2):
        failed = command(*words)
        assert failed.exit_code == 1
        assert "failed  by hand" in failed.stderr
        (found,) = schedule_runs.runs(store, "trains")
        assert found.state == "failed", attempt
        assert found.detail.endswith("Less punctual.")


def test_a_time_without_predictions_is_no_failure_to_a_schedule(command: Command) -> None:
    assert "No prediction of trains" in command("features", "parity", "trains", "--fail-above", "0.01").stdout
    with pytest.raises(DataError, match="Give another time"):
        command("features", "parity", "trains")


def test_a_run_in_the_future_is_refused(command: Command, file: str) -> None:
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    with pytest.raises(ConfigurationError, match="lies in the future"):
        command("schedule", "run", file, "audit", "--due", tomorrow)


@pytest.mark.usefixtures("declared")
def test_another_cron_is_due_from_now_on_and_what_is_paused_stays_so(tmp_path: Path, file: str) -> None:
    settings = load_settings(state=str(tmp_path / "state"), data=str(tmp_path))
    store, before = open_store(settings), datetime.now(UTC)
    schedules.pause(store, SYSTEM, "trains", "features", "x")
    Path(file).write_text(CASE.replace("30 2 * * *", "45 2 * * *").replace('"audit": Schedule("0 * * * *"), ', ""))
    declare(settings, load_use_case(file), file, None)
    (found,) = schedules.list_schedules(store)
    assert found.cron == "45 2 * * *"
    assert found.paused_at is not None
    assert found.decided_until >= before - timedelta(milliseconds=1)
