"""Sources that are tables of a database or of a lake: the same rows as in files, and only what changed is read."""

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from pyiceberg.catalog import load_catalog
from pyiceberg.types import StringType

from mlops_ray import Column, Label, Source, UseCase
from mlops_ray.artifacts import Artifacts
from mlops_ray.config import load_settings
from mlops_ray.errors import ConfigurationError, DataError, UseCaseError
from mlops_ray.ingestion.delta_files import DeltaFiles
from mlops_ray.ingestion.iceberg_files import IcebergFiles
from mlops_ray.ingestion.ingest import ingest
from mlops_ray.ingestion.reading import read_column
from mlops_ray.ingestion.repairs import export, replay
from mlops_ray.ingestion.snapshot import Snapshot
from mlops_ray.ingestion.sql_table import SqlTable, _series, _start
from mlops_ray.pipeline.steps.ingest import contract
from mlops_ray.training.candidates import GradientBoosting
from mlops_ray.use_case.reader import Part

COLUMNS = (
    Column("id", "integer"),
    Column("at", "timestamp"),
    Column("price", "number", nullable=True),
    Column("note", "text", nullable=True),
)
ROWS = [
    (1, "2025-05-01T00:00:00Z", 1.5, "a"),
    (2, "2025-05-02T00:00:00Z", None, " b "),
    (14, "2025-05-03T00:00:00Z", 3, None),
    (15, "later", 4.0, "c"),
]


def source(reader: Any) -> Source:
    return Source(path=None, reader=reader, columns=COLUMNS, key=("id",), known_at=pl.col("at"))


def taken(folder: Path, declared: Source) -> Snapshot:
    case = UseCase(
        name="orders",
        owner="data@example.org",
        sources={"orders": declared},
        entities=("id",),
        event_time="at",
        label=Label("dear", pl.col("price") > 2, pl.col("at")),
        candidates=(GradientBoosting(),),
    )
    places = load_settings(state=str(folder / "state"), data=str(folder))
    return ingest(case, places, None, "c" * 40, {"orders": contract(declared)})


@pytest.fixture
def database(tmp_path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(tmp_path / "shop.db", isolation_level=None)
    connection.execute("CREATE TABLE orders (id INTEGER, at TEXT, price REAL, note TEXT, changed INTEGER, more BLOB)")
    connection.executemany("INSERT INTO orders VALUES (?, ?, ?, ?, 1, x'00')", ROWS)
    return connection


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []
    read = SqlTable.read

    def noted(self: SqlTable, part: Part, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        found.append(part.name)
        return read(self, part, columns)

    monkeypatch.setattr(SqlTable, "read", noted)
    return found


def test_a_table_gives_what_a_file_with_its_rows_gives(tmp_path: Path, database: sqlite3.Connection) -> None:
    table = SqlTable(f"sqlite:///{tmp_path}/shop.db", "orders", slice_by="id", slice_width=10, changed="changed")
    found = taken(tmp_path, source(table))
    texts = [",".join("" if value is None else str(value) for value in row) for row in ROWS]
    (tmp_path / "orders.csv").write_text("\n".join(["id,at,price,note", *texts]) + "\n")
    of_file = taken(tmp_path, replace(source(table), path="orders.csv", reader=None))
    assert found.digest == of_file.digest
    assert replace(found.counts["orders"], lines=None) == replace(of_file.counts["orders"], lines=None)
    assert found.counts["orders"].quarantined == 1
    assert set(found.files["orders"]) == {"orders[0]", "orders[10]"}


def test_only_slices_that_changed_are_read(tmp_path: Path, database: sqlite3.Connection, reads: list[str]) -> None:
    table = SqlTable(f"sqlite:///{tmp_path}/shop.db", "orders", slice_by="id", slice_width=10, changed="changed")
    taken(tmp_path, source(table))
    assert sorted(reads) == ["orders[0]", "orders[10]"]
    taken(tmp_path, source(table))
    assert len(reads) == 2
    database.execute("UPDATE orders SET price = 9, changed = 2 WHERE id = 14")
    database.execute("INSERT INTO orders VALUES (NULL, '2025-05-03T00:00:00Z', 1, 'x', 2, NULL)")
    again = taken(tmp_path, source(table))
    assert sorted(reads[2:]) == ["orders[10]", "orders[null]"]
    assert again.tables(Artifacts(f"{tmp_path}/state/artifacts"))["orders"].sort("id")["price"].to_list()[-1] == 9
    assert again.counts["orders"].reasons["id:missing"] == 1
    database.execute("DELETE FROM orders WHERE id < 10")
    assert taken(tmp_path, source(table)).counts["orders"].rows_in == 3
    assert len(reads) == 4


def test_a_table_that_does_not_tell_its_changes_is_read_each_time(
    tmp_path: Path, database: sqlite3.Connection, reads: list[str]
) -> None:
    table = SqlTable(f"sqlite:///{tmp_path}/shop.db", "orders")
    assert taken(tmp_path, source(table)).digest == taken(tmp_path, source(table)).digest
    assert reads == ["orders", "orders"]


def test_a_row_that_comes_while_a_part_is_read_stops_the_ingest(tmp_path: Path, database: sqlite3.Connection) -> None:
    table = SqlTable(f"sqlite:///{tmp_path}/shop.db", "orders", changed="changed")
    (part,) = table.parts()
    database.execute("INSERT INTO orders VALUES (3, '2025-05-03T00:00:00Z', 1, 'x', 2, NULL)")
    with pytest.raises(OSError, match="changed after it was listed"):
        next(table.read(part, ["id"]))


@pytest.mark.parametrize(
    ("table", "said", "kind"),
    [
        (SqlTable("sqlite:////nowhere/shop.db", "orders"), "unable to open database file", DataError),
        (SqlTable("sqlite:///{folder}/shop.db", "peple"), "table peple cannot be read .*no such table", DataError),
        (SqlTable("env:NO_SUCH_URL", "orders"), "NO_SUCH_URL is empty", ConfigurationError),
        (SqlTable("nonsense", "orders"), "cannot be read", DataError),
        (
            SqlTable("postgresql://u:hunter2@127.0.0.1:1/x", "orders"),  # pragma: allowlist secret
            "cannot be read",
            DataError,
        ),
        (SqlTable("sqlite:///{folder}/shop.db", "orders", "at", timedelta(days=1)), "slice_width is", UseCaseError),
        (SqlTable("sqlite:///{folder}/shop.db", "empty"), "has no rows", DataError),
    ],
    ids=lambda given: getattr(given, "table", ""),
)
def test_a_table_that_cannot_be_read_is_named_without_its_password(
    tmp_path: Path, database: sqlite3.Connection, table: SqlTable, said: str, kind: type[Exception]
) -> None:
    database.execute("CREATE TABLE empty (id INTEGER, at TEXT, price REAL, note TEXT)")
    with pytest.raises(kind, match=said) as caught:
        taken(tmp_path, source(replace(table, url=table.url.replace("{folder}", str(tmp_path)))))
    assert "hunter2" not in str(caught.value)


def test_numbers_that_no_type_of_polars_holds_cost_their_row_alone() -> None:
    values = [Decimal("1.5"), Decimal("NaN"), Decimal("Infinity"), Decimal(10) ** 60, None]
    found = read_column(COLUMNS[2], _series("price", values), "x")
    assert found.value.to_list()[:3] == [1.5, None, None]
    assert [what for what, rows in found.reasons.items() if rows[2]] == ["not_number"]
    assert _series("price", [Decimal("1.5"), Decimal("1E+37"), Decimal("1E-37")]).dtype == pl.String
    assert _series("price", [Decimal("1.5"), None]).dtype.is_decimal()


def test_dates_are_cut_into_whole_days() -> None:
    week = timedelta(days=7)
    assert _start(date(1970, 1, 9), week) == date(1970, 1, 8)
    with pytest.raises(UseCaseError, match="one of whole days for dates"):
        _start(date(1970, 1, 9), timedelta(hours=5))


def test_a_column_that_the_table_lacks_is_named(tmp_path: Path, database: sqlite3.Connection) -> None:
    database.execute("CREATE TABLE short (id INTEGER, note TEXT)")
    database.execute("INSERT INTO short VALUES (1, 'a')")
    with pytest.raises(DataError, match="File short: column at is missing"):
        taken(tmp_path, source(SqlTable(f"sqlite:///{tmp_path}/shop.db", "short")))


def frame(*rows: tuple[Any, ...]) -> pl.DataFrame:
    table = pl.DataFrame(rows, schema=["id", "at", "price"], orient="row")
    return table.with_columns(pl.col("at").str.to_datetime(time_zone="UTC"), (pl.col("id") % 2).alias("half"))


def test_of_a_delta_table_only_new_files_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url, reads = str(tmp_path / "lake"), []
    read = DeltaFiles.read

    def noted(self: DeltaFiles, part: Part, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        reads.append(part.name)
        return read(self, part, columns)

    monkeypatch.setattr(DeltaFiles, "read", noted)
    frame((1, "2025-05-01T00:00:00Z", 1.0), (2, "2025-05-01T00:00:00Z", 2.0)).write_delta(
        url, delta_write_options={"partition_by": ["half"]}
    )
    declared = replace(source(DeltaFiles(url)), columns=(*COLUMNS, Column("half", "integer")))
    assert taken(tmp_path, declared).counts["orders"].accepted == 2
    assert len(reads) == 2
    frame((3, "2025-05-02T00:00:00Z", 3.0)).with_columns(note=pl.lit("new")).write_delta(
        url, mode="append", delta_write_options={"schema_mode": "merge"}
    )
    found = taken(tmp_path, declared)
    assert len(reads) == 3
    table = found.tables(Artifacts(f"{tmp_path}/state/artifacts"))["orders"].sort("id")
    assert table.select("id", "note", "half").rows() == [(1, None, 1), (2, None, 0), (3, "new", 1)]
    # What was merged or taken out of the table is not in the next snapshot; an older version is what it was.
    DeltaTable(url).delete("id = 2")
    assert taken(tmp_path, declared).counts["orders"].accepted == 2
    pinned = replace(declared, reader=DeltaFiles(url, version=1))
    assert taken(tmp_path, pinned).digest == found.digest


def test_a_delta_table_whose_column_was_given_another_type_is_judged_by_what_its_values_mean(tmp_path: Path) -> None:
    url, declared = str(tmp_path / "lake"), source(DeltaFiles(f"{tmp_path}/lake"))
    declared = replace(declared, columns=COLUMNS[:3])
    rows = frame(*((number, "2025-05-01T00:00:00Z", number / 2) for number in range(120))).drop("half")
    overwritten: Any = {"mode": "overwrite", "delta_write_options": {"schema_mode": "overwrite"}}
    rows.write_delta(url)
    first = taken(tmp_path, declared)
    rows.with_columns(pl.col("price").cast(pl.String)).write_delta(url, **overwritten)
    assert taken(tmp_path, declared).digest == first.digest  # the text 1.5 is the number
    some = pl.when(pl.col("id") < 3).then(pl.lit("dear")).otherwise(pl.col("price").cast(pl.String)).alias("price")
    rows.with_columns(some).write_delta(url, **overwritten)
    counts = taken(tmp_path, declared).counts["orders"]
    assert (counts.accepted, counts.reasons) == (117, {"price:not_number": 3})
    rows.with_columns(pl.lit("dear").alias("price")).write_delta(url, **overwritten)
    with pytest.raises(DataError, match=r"in none of its 120 rows can be read price as number\. Repair"):
        taken(tmp_path, declared)
    pinned = replace(declared, reader=DeltaFiles(url, version=0))
    assert taken(tmp_path, pinned).digest == first.digest


def test_a_lake_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Source orders: Delta table .*lake cannot be opened"):
        taken(tmp_path, source(DeltaFiles(f"{tmp_path}/lake")))
    with pytest.raises(ConfigurationError, match="NO_SUCH_SECRET is empty"):
        taken(tmp_path, source(DeltaFiles("s3://lake/x", options=(("AWS_SECRET_ACCESS_KEY", "env:NO_SUCH_SECRET"),))))


@pytest.fixture
def iceberg(tmp_path: Path) -> tuple[IcebergFiles, Any]:
    """A table in a catalog of its own, with a row that is partly null, and the reader of it."""
    properties = {"type": "sql", "uri": f"sqlite:///{tmp_path}/catalog.db", "warehouse": f"file://{tmp_path}/lake"}
    catalog = load_catalog("local", **properties)
    catalog.create_namespace("sales")
    rows = frame((1, "2025-05-01T00:00:00Z", 1.0), (2, "2025-05-01T00:00:00Z", None)).drop("half").to_arrow()
    table = catalog.create_table("sales.orders", schema=rows.schema)
    table.append(rows)
    return IcebergFiles("sales.orders", "local", tuple(properties.items())), table


def test_of_an_iceberg_table_only_new_files_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, iceberg: tuple[IcebergFiles, Any]
) -> None:
    reader, table = iceberg
    reads, read = [], IcebergFiles.read

    def noted(self: IcebergFiles, part: Part, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        reads.append(part.name)
        return read(self, part, columns)

    monkeypatch.setattr(IcebergFiles, "read", noted)
    assert taken(tmp_path, source(reader)).counts["orders"].accepted == 2
    with table.update_schema() as changed:
        changed.add_column("note", StringType())
    table.append(frame((3, "2025-05-02T00:00:00Z", 3.0)).drop("half").with_columns(note=pl.lit("new")).to_arrow())
    found = taken(tmp_path, source(reader))
    assert len(reads) == 2
    rows = found.tables(Artifacts(f"{tmp_path}/state/artifacts"))["orders"].sort("id")
    assert rows.select("id", "price", "note").rows() == [(1, 1.0, None), (2, None, None), (3, 3.0, "new")]
    # What was deleted is not in the next snapshot; an older snapshot of the table is what it was.
    pinned = replace(reader, snapshot=table.current_snapshot().snapshot_id)
    table.delete("id = 2")
    assert taken(tmp_path, source(reader)).counts["orders"].accepted == 2
    assert taken(tmp_path, source(pinned)).digest == found.digest


def test_an_iceberg_table_that_cannot_be_read_is_named(tmp_path: Path, iceberg: tuple[IcebergFiles, Any]) -> None:
    reader, _ = iceberg
    for wrong, said in (
        (replace(reader, table="sales.peple"), "sales.peple cannot be opened"),
        (replace(reader, snapshot=7), "sales.orders has no snapshot 7"),
        (
            replace(reader, options=(("type", "sql"), ("uri", "sqlite:////nowhere/c.db"))),
            "sales.orders cannot be opened",
        ),
    ):
        with pytest.raises(DataError, match=f"Source orders: Iceberg table {said}"):
            taken(tmp_path, source(wrong))
    with pytest.raises(ConfigurationError, match="IcebergFiles: the variable NO_SUCH_TOKEN is empty"):
        taken(tmp_path, source(replace(reader, options=(("token", "env:NO_SUCH_TOKEN"),))))


@dataclass(frozen=True)
class Own:
    """A reader of a user's own; it fails as it is told."""

    fails: str = ""

    def parts(self) -> Sequence[Part]:
        if self.fails == "parts":
            raise KeyError("token")
        return [Part("one", "1")] * (2 if self.fails == "twice" else 1)

    def read(self, part: Part, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        yield pa.RecordBatch.from_pylist([{"id": 1, "at": datetime(2025, 5, 1), "price": 1.0, "note": "a"}])
        if self.fails == "half way":
            raise OSError("the line is dead")


def test_a_reader_of_ones_own(tmp_path: Path) -> None:
    columns = tuple(replace(c, time_zone="Europe/Berlin") if c.name == "at" else c for c in COLUMNS)
    assert taken(tmp_path, replace(source(Own()), columns=columns)).counts["orders"].accepted == 1
    for fails, kind, said in (
        ("parts", UseCaseError, "Source orders: its reader: KeyError"),
        ("twice", UseCaseError, "two parts of one name"),
        ("half way", DataError, "one cannot be read: the line is dead"),
    ):
        with pytest.raises(kind, match=said):
            taken(tmp_path, replace(source(Own(fails)), columns=columns))


def test_refused_rows_of_a_table_leave_as_lines_of_json_and_are_mended_there(
    tmp_path: Path, database: sqlite3.Connection
) -> None:
    declared = source(SqlTable(f"sqlite:///{tmp_path}/shop.db", "orders", slice_by="id", slice_width=10))
    snapshot, artifacts = taken(tmp_path, declared), Artifacts(f"{tmp_path}/state/artifacts")
    (file,) = export(artifacts, snapshot, "orders", declared, str(tmp_path), tmp_path / "out")
    assert file.name == "orders%5B10%5D.jsonl"
    assert '"at": "later"' in file.read_text()
    with pytest.raises(DataError, match="Mend the rows there"):
        replay(file, "orders", declared, str(tmp_path))


def test_a_source_has_a_path_or_a_reader() -> None:
    for path, reader in ((None, None), ("x.csv", Own())):
        with pytest.raises(UseCaseError, match="give a path of files or, with path=None, a reader"):
            Source(path=path, reader=reader, columns=COLUMNS)
    with pytest.raises(UseCaseError, match="go together"):
        SqlTable("sqlite://", "t", slice_by="id")
    with pytest.raises(UseCaseError, match="more than 0"):
        SqlTable("sqlite://", "t", slice_by="id", slice_width=0)
