"""The catalogue says what depends on a snapshot; retiring takes its rows away, and nothing that is in use."""

import threading
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

from mlops_ray import Column, Label, Source, UseCase
from mlops_ray.artifacts import Artifacts
from mlops_ray.catalogue import retire as retiring
from mlops_ray.catalogue.catalogue import Catalogue, Entry, catalogue, proposal
from mlops_ray.catalogue.export import export_delta
from mlops_ray.catalogue.retire import retire
from mlops_ray.cli.main import app
from mlops_ray.config import Settings
from mlops_ray.errors import ConfigurationError, ConflictError, DataError
from mlops_ray.governance.champion import set_champion
from mlops_ray.governance.control_store import ControlStore, open_store
from mlops_ray.governance.events import SYSTEM, read_events
from mlops_ray.governance.versions import VersionRef
from mlops_ray.ingestion import ingest as ingesting
from mlops_ray.ingestion import shared_tables, writing
from mlops_ray.ingestion.ingest import ingest
from mlops_ray.ingestion.snapshot import Snapshot, last_digest, load_snapshot, retired
from mlops_ray.pipeline.steps.ingest import contract
from mlops_ray.testing.example_lineage import example_lineage, register_example
from mlops_ray.training.candidates import GradientBoosting

AS_OF = datetime(2025, 6, 1, tzinfo=UTC)
SOURCE = Source(
    path="*.csv",
    columns=(Column("id", "integer"), Column("at", "timestamp"), Column("note", "text")),
    key=("id",),
    known_at=pl.col("at"),
)
CASE = UseCase(
    name="visits",
    owner="ann",
    sources={"visits": SOURCE},
    entities=("id",),
    event_time="at",
    label=Label("long", value=pl.col("note") == "long", known_at=pl.col("at")),
    candidates=(GradientBoosting(),),
)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "data").mkdir()
    return Settings(state=f"{tmp_path}/state", data=f"{tmp_path}/data")


@pytest.fixture
def store(settings: Settings) -> ControlStore:
    Path(settings.state).mkdir(parents=True)
    return open_store(settings)


def month(settings: Settings, number: int, rows: int = 40) -> None:
    lines = [f"{number * 1000 + row},2025-0{number}-01T00:00:00Z,n{row}" for row in range(rows)]
    Path(settings.data, f"visits_{number}.csv").write_text("\n".join(["id,at,note", *lines]) + "\n")


def ingested(settings: Settings, case: UseCase = CASE) -> Snapshot:
    contracts = {name: contract(source) for name, source in case.sources.items()}
    return ingest(case, settings, AS_OF, "code", contracts)


def two(settings: Settings) -> tuple[Snapshot, Snapshot]:
    """The snapshots before and after a month came in."""
    month(settings, 1)
    first = ingested(settings)
    month(settings, 2)
    return first, ingested(settings)


def listed(settings: Settings, store: ControlStore) -> Catalogue:
    return catalogue(Artifacts(settings.artifacts), store, datetime.now(UTC))


def entry_of(settings: Settings, store: ControlStore, snapshot: Snapshot) -> Entry:
    found = [one for one in listed(settings, store).entries if one.digest == snapshot.digest]
    return next(one for one in found if one.use_case == snapshot.use_case)


def register(settings: Settings, store: ControlStore, snapshot: Snapshot, version: int = 1) -> VersionRef:
    """A version that was trained on a snapshot, with its training set and feature rows."""
    artifacts, sealed = Artifacts(settings.artifacts), str(version) * 64
    record = example_lineage(snapshot.use_case, sealed, snapshot=snapshot.digest, feature_rows={"view": "f" * 64})
    frame = pl.DataFrame({"id": [1, 2]})
    artifacts.write_table(frame, "training_sets", snapshot.use_case, f"{record.training_set}.parquet")
    artifacts.write_table(frame, "features", snapshot.use_case, "view", f"{'f' * 64}.parquet")
    return register_example(settings, store, record, version)


def rows_of(settings: Settings, snapshot: Snapshot) -> int:
    return snapshot.tables(Artifacts(settings.artifacts))["visits"].height


def parquet_below(settings: Settings, *place: str) -> list[Path]:
    return list(Path(settings.artifacts, *place).rglob("*.parquet"))


def test_what_two_snapshots_have_in_common_lies_on_the_disk_once_and_is_counted_once(
    settings: Settings, store: ControlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_tables, "TABLE_BYTES", 1)
    first, second = two(settings)
    assert [rows_of(settings, one) for one in (first, second)] == [40, 80]
    files = [path for one in (first, second) for path in parquet_below(settings, "snapshots", "visits", one.digest)]
    assert (len(files), len({path.stat().st_ino for path in files})) == (3, 2)
    found = listed(settings, store)
    quarantined = sum(path.stat().st_size for path in parquet_below(settings, "quarantine"))
    assert found.bytes == quarantined + sum({path.stat().st_ino: path.stat().st_size for path in files}.values())
    assert 0 < entry_of(settings, store, first).shared_bytes < sum(one.bytes for one in found.entries)
    retire(settings, store, SYSTEM, "visits", first.digest, "old")
    assert rows_of(settings, second) == 80


def test_a_shared_table_that_was_damaged_is_written_again(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_tables, "TABLE_BYTES", 1)
    month(settings, 1)
    first = ingested(settings)
    (table,) = parquet_below(settings, "snapshots")
    table.write_bytes(table.read_bytes()[:-9] + b"x" * 9)
    month(settings, 2)
    assert rows_of(settings, ingested(settings)) == 80
    assert first.digest != last_digest(Artifacts(settings.artifacts), "visits")


def test_month_by_month_gives_the_same_snapshot_as_all_at_once(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_tables, "TABLE_BYTES", 1)
    _, grown = two(settings)
    other = Settings(state=f"{tmp_path}/other", data=settings.data)
    at_once = ingested(other)
    assert grown.to_json() == at_once.to_json()
    assert [table.equals(at_once.tables(Artifacts(other.artifacts))[name]) for name, table in grown.tables(
        Artifacts(settings.artifacts)
    ).items()] == [True]  # fmt: skip


def test_an_entry_names_training_sets_models_and_other_use_cases(settings: Settings, store: ControlStore) -> None:
    first, second = two(settings)
    sealed = register(settings, store, first)
    register(settings, store, first, 2)
    set_champion(store, SYSTEM, "visits", sealed, "first")
    ingested(settings, replace(CASE, name="returns"))
    found = entry_of(settings, store, first)
    assert [(model.version, model.state) for model in found.models] == [(1, "live"), (2, "registered")]
    assert len(found.training_sets) == 1
    assert found.bytes > sum(
        path.stat().st_size for path in parquet_below(settings, "snapshots", "visits", first.digest)
    )
    assert entry_of(settings, store, second).also_of == ("returns",)
    assert proposal(listed(settings, store)) == []


def test_a_snapshot_of_a_live_version_is_kept_unless_the_version_is_named(
    settings: Settings, store: ControlStore
) -> None:
    first, _ = two(settings)
    set_champion(store, SYSTEM, "visits", register(settings, store, first), "first")
    with pytest.raises(ConflictError, match=r"visits@1 is live.*--force visits@1"):
        retire(settings, store, SYSTEM, "visits", first.digest, "space")
    with pytest.raises(ConfigurationError, match="names nothing that keeps"):
        retire(settings, store, SYSTEM, "visits", first.digest, "space", ["visits@2"])
    assert rows_of(settings, first) == 40
    done = retire(settings, store, SYSTEM, "visits", first.digest[:10], "space", ["visits@1"])
    assert done.mark.forced == ("visits@1",)
    assert parquet_below(settings, "training_sets") == parquet_below(settings, "features") == []
    (event,) = read_events(store, types=["data.retired"])
    assert (event.reason, event.payload["models"]) == ("space", [1])
    assert event.payload["mark"]["forced"] == ["visits@1"]


def test_who_reads_a_retired_snapshot_is_told_who_when_and_what_to_do(settings: Settings, store: ControlStore) -> None:
    first, second = two(settings)
    assert [one.digest for one in proposal(listed(settings, store))] == [first.digest]
    retire(settings, store, SYSTEM, "visits", first.digest, "nobody needs it")
    with pytest.raises(DataError, match=r"retired by system at 20.* UTC \(nobody needs it\).*Ingest again"):
        rows_of(settings, first)
    assert load_snapshot(Artifacts(settings.artifacts), "visits", first.digest).counts == first.counts
    assert proposal(listed(settings, store)) == []
    assert entry_of(settings, store, first).bytes == 0
    with pytest.raises(ConflictError, match="the last ingest gave it"):
        retire(settings, store, SYSTEM, "visits", second.digest, "space")
    Path(settings.data, "visits_2.csv").unlink()
    assert ingested(settings).digest == first.digest
    assert rows_of(settings, first) == 40
    assert retired(Artifacts(settings.artifacts), "visits", first.digest) is None


def test_feature_rows_that_another_snapshot_needs_stay(settings: Settings, store: ControlStore) -> None:
    first, second = two(settings)
    register(settings, store, first)
    register(settings, store, second, 2)
    retire(settings, store, SYSTEM, "visits", first.digest, "old")
    assert len(parquet_below(settings, "features")) == 1


def test_a_snapshot_of_two_use_cases_is_retired_for_one(settings: Settings, store: ControlStore) -> None:
    returns = replace(CASE, name="returns")
    month(settings, 1)
    first, theirs = ingested(settings), ingested(settings, returns)
    inodes = {path.stat().st_ino for path in parquet_below(settings, "snapshots")}
    assert (first.digest, len(inodes)) == (theirs.digest, 1)
    month(settings, 2)
    ingested(settings)
    set_champion(store, SYSTEM, "returns", register(settings, store, theirs), "first")
    retire(settings, store, SYSTEM, "visits", first.digest, "old")
    with pytest.raises(DataError, match="retired"):
        rows_of(settings, first)
    assert rows_of(settings, theirs) == 40


@pytest.mark.parametrize("at", ["delete", "record"])
def test_retiring_that_was_killed_is_completed(
    settings: Settings, store: ControlStore, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    first, _ = two(settings)

    def killed(*arguments: object, **named: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(*((Artifacts, "delete") if at == "delete" else (retiring, "record")), killed)
        with pytest.raises(KeyboardInterrupt):
            retire(settings, store, SYSTEM, "visits", first.digest, "old")
    with pytest.raises(DataError, match="retired"):
        rows_of(settings, first)
    for _ in range(2):
        retire(settings, store, SYSTEM, "visits", first.digest, "old")
    assert parquet_below(settings, "snapshots", "visits", first.digest) == []
    assert len(read_events(store, types=["data.retired"])) == 1


@pytest.mark.parametrize(("module", "moment"), [(writing, "write_last"), (ingesting, "end_use")])
def test_a_snapshot_that_is_retired_while_it_is_ingested_is_there_or_said_to_be_gone(
    settings: Settings, store: ControlStore, monkeypatch: pytest.MonkeyPatch, module: Any, moment: str
) -> None:
    first, _ = two(settings)
    Path(settings.data, "visits_2.csv").unlink()
    really = getattr(module, moment)

    def meanwhile(*arguments: object, **named: object) -> None:
        monkeypatch.setattr(module, moment, really)
        refused = False
        try:
            retire(settings, store, SYSTEM, "visits", first.digest, "old")
        except ConflictError:
            refused = True
        assert refused == (moment == "end_use")
        really(*arguments, **named)

    monkeypatch.setattr(module, moment, meanwhile)
    assert ingested(settings).digest == first.digest
    assert rows_of(settings, first) == 40


def test_two_ingests_at_once_leave_every_row_once(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_tables, "TABLE_BYTES", 1)
    for number in (1, 2, 3):
        month(settings, number)
    both, failed = threading.Barrier(4), list[Exception]()

    def run(case: UseCase) -> None:
        both.wait()
        try:
            ingested(settings, case)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(case,)) for case in (CASE, CASE, CASE, replace(CASE, name="returns"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    artifacts = Artifacts(settings.artifacts)
    for name in ("visits", "returns"):
        found = load_snapshot(artifacts, name, str(last_digest(artifacts, name)))
        assert found.tables(artifacts)["visits"]["id"].n_unique() == rows_of(settings, found) == 120


def test_a_snapshot_is_a_folder_of_parquet_that_other_tools_open(settings: Settings) -> None:
    import duckdb

    _, second = two(settings)
    place = f"{settings.artifacts}/{'/'.join(second.place('visits'))}/*.parquet"
    assert pl.scan_parquet(place).select(pl.len()).collect().item() == 80
    assert duckdb.sql(f"SELECT count(*) FROM read_parquet('{place}')").fetchall() == [(80,)]


def test_exported_snapshots_are_versions_of_one_delta_table(
    settings: Settings, store: ControlStore, tmp_path: Path
) -> None:
    first, second = two(settings)
    artifacts, lake = Artifacts(settings.artifacts), tmp_path / "lake"
    assert [export_delta(artifacts, one, lake) for one in (first, second, second)] == [
        {"visits": 0}, {"visits": 1}, {"visits": 1},
    ]  # fmt: skip
    rows = [
        pl.scan_delta(str(lake / "visits"), version=version).select(pl.len()).collect().item() for version in (0, 1)
    ]
    assert rows == [40, 80]
    where = ["data", "export", "visits", second.digest[:9], "--to", str(lake), "--state", settings.state]
    assert "at version 1" in CliRunner().invoke(app, [*where, "--delta"]).output
    with pytest.raises(ConfigurationError, match="relative path"):
        export_delta(artifacts, first, Path("lake"))
    retire(settings, store, SYSTEM, "visits", first.digest, "old")
    with pytest.raises(DataError, match="retired"):
        export_delta(artifacts, first, lake)


def test_the_command_lists_shows_and_retires(settings: Settings, store: ControlStore) -> None:
    first, _ = two(settings)
    register(settings, store, first)
    where = ["--state", settings.state]
    said = CliRunner().invoke(app, ["data", "list", *where]).output
    assert f"visits@{first.digest[:12]}" in said
    assert "each file once" in said
    assert "Nothing in use needs" in said
    assert "visits@1 (registered)" in said
    shown = CliRunner().invoke(app, ["data", "show", "visits", first.digest[:8], *where]).output
    assert '"state": "registered"' in shown
    done = CliRunner().invoke(app, ["data", "retire", "visits", first.digest[:8], "--reason", "old", *where])
    assert "is retired" in done.output
