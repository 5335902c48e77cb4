"""A source in a real PostgreSQL: all its types, slices of time, writers meanwhile, and a server that goes away."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import polars as pl
import psycopg
import pytest

from mlops_ray import Column, Source
from mlops_ray.errors import DataError
from mlops_ray.ingestion.contract import REASON, judge_rows
from mlops_ray.ingestion.readers import read_file
from mlops_ray.ingestion.sources import find_files
from mlops_ray.ingestion.sql_table import SqlTable
from tests.integration.store_servers import Server, started

MADE = """
CREATE SCHEMA sales;
CREATE TABLE sales.orders (
    id bigint, at timestamptz, day date, price numeric(12, 2), much numeric, share real, paid boolean, "the note" text,
    code uuid, more jsonb, tags text[], raw bytea, changed bigint
);
INSERT INTO sales.orders VALUES
    (1, '2025-03-30 01:30:00+01', '2025-03-30', 1.10, 123456789012345678901234567890.5, 0.5, true, 'é',
     '8b6b1c1e-0000-0000-0000-000000000001', '{"a": 1}', '{x,y}', 'text', 1),
    (2, '2025-03-30 03:30:00+02', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 2),
    (3, NULL, '2025-01-01', -2, 1, 'NaN', false, '', NULL, '[]', '{}', '\\x00ff', 3);
"""
SOURCE = Source(
    path=None,
    columns=(
        Column("id", "integer"),
        Column("at", "timestamp", nullable=True),
        Column("day", "timestamp", nullable=True, time_zone="Europe/Berlin"),
        Column("price", "number", nullable=True, decimal_comma=True),
        Column("much", "number", nullable=True),
        Column("share", "number", nullable=True),
        Column("paid", "boolean", nullable=True),
        Column("the note", "text", nullable=True),
        Column("code", "text", nullable=True, pattern="[0-9a-f-]{36}"),
        Column("more", "text", nullable=True),
        Column("tags", "text", nullable=True),
    ),
    reader=SqlTable("env:SALES_DB", "sales.orders", "at", timedelta(hours=1), "changed"),
)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with started("postgresql") as found:
        with psycopg.connect(found.url, autocommit=True) as connection:
            connection.execute(MADE)
        yield found


@pytest.fixture(autouse=True)
def _url(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SALES_DB", server.url)


def rows() -> pl.DataFrame:
    """What the contract makes of every row, whatever part it is in."""
    frames = [
        judge_rows(raw.frame, SOURCE, file.name)
        for file in find_files("/", "orders", SOURCE)
        for raw in read_file(file, SOURCE)
    ]
    return pl.concat(frames).sort("id")


def test_values_of_every_type_mean_what_their_text_means() -> None:
    found = rows()
    assert found[REASON].to_list() == [None, None, None]
    first, second, third = found.drop(REASON, "__repairs").rows()
    assert first == (
        1, datetime(2025, 3, 30, 0, 30, tzinfo=UTC), datetime(2025, 3, 29, 23, tzinfo=UTC), 1.1, 1.2345678901234568e29,
        0.5, True, "é", "8b6b1c1e-0000-0000-0000-000000000001", '{"a": 1}', '["x", "y"]',
    )  # fmt: skip
    assert second == (2, datetime(2025, 3, 30, 1, 30, tzinfo=UTC), *[None] * 9)
    assert third[:5] == (3, None, datetime(2024, 12, 31, 23, tzinfo=UTC), -2.0, 1.0)


def test_slices_of_time_hold_every_row_once_and_those_without_a_time() -> None:
    assert [file.name for file in find_files("/", "orders", SOURCE)] == [
        "sales.orders[2025-03-30 00:00:00+00:00]",
        "sales.orders[2025-03-30 01:00:00+00:00]",
        "sales.orders[null]",
    ]


def test_a_part_is_read_as_of_one_moment_while_others_write(server: Server) -> None:
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("CREATE TABLE many AS SELECT g AS id, 0 AS changed FROM generate_series(1, 200000) AS g")
    table = SqlTable(server.url, "many", changed="changed")
    (part,) = table.parts()
    read = table.read(part, ["id"])
    found = next(read).num_rows
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("DELETE FROM many WHERE id % 2 = 0")
        connection.execute("INSERT INTO many SELECT g, 1 FROM generate_series(200001, 400000) AS g")
    assert found + sum(batch.num_rows for batch in read) == 200_000
    with pytest.raises(OSError, match="changed after it was listed"):
        next(table.read(part, ["id"]))


def test_a_server_that_goes_away_half_way_is_an_error_that_names_the_part(server: Server) -> None:
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE wide AS SELECT g AS id, repeat('x', 500) AS note FROM generate_series(1, 300000) AS g"
        )
    table = replace(
        SOURCE, reader=SqlTable(server.url, "wide"), columns=(Column("id", "integer"), Column("note", "text"))
    )
    (file,) = find_files("/", "wide", table)
    read = read_file(file, table)
    next(read)
    stopping = threading.Thread(target=server.stop)
    stopping.start()
    with pytest.raises(DataError, match=r"wide cannot be read: table wide cannot be read"):
        for _ in read:
            pass
    stopping.join()
    with pytest.raises(DataError, match=r"Source wide: table wide cannot be read .*onnect"):
        find_files("/", "wide", table)
    server.start()
