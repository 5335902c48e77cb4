"""What rows must be like together: told by a naive reading of them, and by what an ingest says."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlops_ray import Column, Label, Source, UseCase
from mlops_ray.artifacts import Artifacts
from mlops_ray.config import load_settings
from mlops_ray.errors import DataError, UseCaseError
from mlops_ray.ingestion.contract import REASON, judge_rows
from mlops_ray.ingestion.expectations import unmet_checks, unmet_limits
from mlops_ray.ingestion.ingest import ingest
from mlops_ray.ingestion.snapshot import Snapshot, load_snapshot
from mlops_ray.pipeline.steps.ingest import contract
from mlops_ray.training.candidates import GradientBoosting
from mlops_ray.use_case.expectations import Check, Expectations, NeverFalls, References, Unique

DAY = timedelta(days=1)
ORDERS = Source(
    path="orders_*.csv",
    columns=(
        Column("id", "integer"),
        Column("customer", "text", nullable=True),
        Column("at", "timestamp"),
        Column("paid", "number", nullable=True),
        Column("due", "number", nullable=True),
    ),
    key=("id",),
    known_at=pl.col("at"),
)
PEOPLE = Source(path="people.csv", columns=(Column("name", "text"), Column("town", "text", nullable=True)))


def case(orders: Source) -> UseCase:
    return UseCase(
        name="orders",
        owner="shop@example.org",
        sources={"orders": orders, "people": PEOPLE},
        entities=("id",),
        event_time="at",
        label=Label("late", pl.col("paid") > 0, pl.col("at")),
        candidates=(GradientBoosting(),),
        request_features={"due": pl.col("due")},
    )


def write(folder: Path, name: str, *rows: str, header: str = "id,customer,at,paid,due") -> None:
    (folder / name).write_text("\n".join((header, *rows)) + "\n")


def taken(folder: Path, orders: Source, as_of: datetime | None = None) -> Snapshot:
    declared = case(orders)
    found = load_settings(state=str(folder / "state"), data=str(folder))
    return ingest(declared, found, as_of, "c" * 40, {name: contract(one) for name, one in declared.sources.items()})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, "people.csv", "ann,Ulm", "bob,", header="name,town")
    write(tmp_path, "orders_1.csv", "1,ann,2025-05-01T00:00:00Z,1,2", "2,bob,2025-05-02T00:00:00Z,2,2")
    return tmp_path


def expecting(**expectations: Any) -> Source:
    return replace(ORDERS, expects=Expectations(**expectations))


def test_a_row_that_breaks_a_rule_is_quarantined_with_the_rules_name(folder: Path) -> None:
    write(folder, "orders_2.csv", "3,ann,2025-05-03T00:00:00Z,5,4", "4,ann,2025-05-03T00:00:00Z,,4")
    rules = {"paid_at_most_what_is_due": pl.col("paid") <= pl.col("due"), "early": pl.col("at").dt.year() < 2026}
    snapshot = taken(folder, replace(ORDERS, rules=rules))
    artifacts = Artifacts(f"{folder}/state/artifacts")
    assert snapshot.tables(artifacts)["orders"].sort("id")["id"].to_list() == [1, 2, 4]  # null holds, as in SQL
    refused = snapshot.quarantine(artifacts, "orders")
    assert refused["reason"].to_list() == ["rule:paid_at_most_what_is_due"]
    assert refused["raw"].to_list() == [b"3,ann,2025-05-03T00:00:00Z,5,4\n"]


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {
                "id": st.sampled_from(["1", "2", "x", ""]),
                "customer": st.sampled_from(["ann", ""]),
                "at": st.sampled_from(["2025-05-01T00:00:00Z", "2026-05-01T00:00:00Z"]),
                "paid": st.sampled_from(["1", "2", "", "?"]),
                "due": st.sampled_from(["1", "2", ""]),
            }
        ),
        max_size=8,
    )
)
def test_rules_are_asked_of_rows_that_the_columns_accept(rows: list[dict[str, str]]) -> None:
    source = replace(
        ORDERS, rules={"covered": pl.col("paid") <= pl.col("due"), "named": pl.col("customer").is_not_null()}
    )
    judged = judge_rows(pl.DataFrame(rows, schema={c.name: pl.String for c in ORDERS.columns}), source, "f")
    for row, reason in zip(rows, judged[REASON], strict=True):
        refused = row["id"] in ("x", "") or row["paid"] == "?"
        broken = [] if refused else [
            *(["rule:covered"] if row["paid"] and row["due"] and int(row["paid"]) > int(row["due"]) else []),
            *(["rule:named"] if not row["customer"] else []),
        ]  # fmt: skip
        assert refused == ((reason or "").startswith(("id:", "paid:")))
        assert refused or (reason or "") == ";".join(broken)


def naive(check: Check, rows: list[dict[str, Any]], others: list[dict[str, Any]]) -> bool:
    """Whether the check holds."""
    match check:
        case Unique(columns):
            values = [tuple(row[c] for c in columns) for row in rows if all(row[c] is not None for c in columns)]
            return len(values) == len(set(values))
        case NeverFalls(column, along, by):
            there = [row for row in rows if all(row[c] is not None for c in (column, along, *by))]
            groups: dict[Any, list[tuple[Any, Any]]] = {}
            for row in there:
                groups.setdefault(tuple(row[c] for c in by), []).append((row[along], row[column]))
            return all(
                all(first[1] <= second[1] for first, second in pairwise(ordered))
                for ordered in map(sorted, groups.values())
            )
        case References(columns, _, of):
            known = {tuple(row[c] for c in of or columns) for row in others}
            return all(
                tuple(row[c] for c in columns) in known for row in rows if all(row[c] is not None for c in columns)
            )


VALUES = st.sampled_from([None, 1, 2, 3])
CHECKS = st.sampled_from(
    [
        Unique(("a",)),
        Unique(("a", 'b"x')),
        NeverFalls("a", 'b"x'),
        NeverFalls("a", 'b"x', by=("c",)),
        References(("a",), "other", ("k",)),
        References(("a", 'b"x'), "other", ("k", "l")),
    ]
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.fixed_dictionaries({"a": VALUES, 'b"x': VALUES, "c": VALUES}), max_size=6),
    others=st.lists(st.fixed_dictionaries({"k": VALUES, "l": VALUES}), max_size=6),
    check=CHECKS,
)
def test_a_check_says_what_a_naive_reading_says(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], others: list[Any], check: Check
) -> None:
    artifacts = Artifacts(str(tmp_path_factory.mktemp("checks")))
    tables: Mapping[str, Any] = {"t": (rows, ("a", 'b"x', "c")), "other": (others, ("k", "l"))}
    for name, (values, columns) in tables.items():
        frame = pl.DataFrame(values, schema=dict.fromkeys(columns, pl.Int64))
        middle = len(values) // 2  # in two files, as a large table lies
        for number, part in enumerate((frame[:middle], frame[middle:])):
            artifacts.write_table(part, "snapshots", "u", "d", name, "accepted", f"part-{number}.parquet")
    snapshot = Snapshot("u", "d", datetime(2025, 1, 1, tzinfo=UTC), "", "", {}, {}, {})
    source = Source("t.csv", (Column("a", "integer"),), expects=Expectations(checks=(check,)))
    found = unmet_checks(artifacts, snapshot, "t", source)
    assert (not found) == naive(check, rows, others), found


def test_every_expectation_that_is_not_met_is_named_and_the_rows_are_there_to_look_at(folder: Path) -> None:
    write(folder, "orders_2.csv", "3,eve,2025-05-03T00:00:00Z,1,2", "x,ann,2025-05-03T00:00:00Z,1,2")
    source = expecting(
        max_age=DAY,
        min_rows=4,
        max_quarantined=0.1,
        checks=(Unique(("due",)), NeverFalls("paid", "at"), References(("customer",), "people", ("name",))),
    )
    with pytest.raises(DataError) as caught:
        taken(folder, source, datetime(2025, 5, 5, tzinfo=UTC))
    said = str(caught.value).splitlines()
    assert [line[: line.index(".")] for line in said] == [
        "Source orders: its newest row became known at 2025-05-03T00:00:00+00:00, 2 days, 0:00:00 before "
        "2025-05-05T00:00:00+00:00 (max_age 1 day, 0:00:00)",
        "Source orders: 3 rows were accepted (min_rows 4)",
        "Source orders: 1 of 4 rows were quarantined (max_quarantined 10",
        "Source orders: values of due that occur in several rows: 1, such as 2",
        "Source orders: rows in which paid is less than in the row before, along at: 1, such as 2025-05-03 "
        "00:00:00+00:00, 1",
        "Source orders: values of customer that do not occur in source people: 1, such as eve",
    ]
    artifacts = Artifacts(f"{folder}/state/artifacts")
    (kept,) = artifacts.entries("snapshots", "orders")
    assert load_snapshot(artifacts, "orders", kept.name).quarantine(artifacts, "orders").height == 1


def test_what_meets_its_expectations_says_nothing(folder: Path) -> None:
    source = expecting(
        max_age=DAY, min_rows=2, max_change=0.0, max_quarantined=0.0,
        checks=(Unique(("id",)), NeverFalls("id", "at"), References(("customer",), "people", ("name",))),
    )  # fmt: skip
    assert taken(folder, source).counts["orders"].accepted == 2


@pytest.mark.parametrize(("more", "fails"), [(0, False), (1, False), (2, True)])
def test_a_volume_that_jumps_fails_against_the_last_snapshot_of_an_earlier_moment(
    folder: Path, more: int, fails: bool
) -> None:
    source = expecting(max_change=0.5)
    taken(folder, source, datetime(2025, 5, 10, tzinfo=UTC))
    write(folder, "orders_2.csv", *(f"{9 + n},ann,2025-05-03T00:00:00Z,1,2" for n in range(more)))
    taken(folder, expecting(), datetime(2025, 5, 20, tzinfo=UTC))  # of a later moment, and nobody asked
    if fails:
        with pytest.raises(DataError, match=r"4 rows were accepted, and 2 by the snapshot before \(max_change 50.0%\)"):
            taken(folder, source, datetime(2025, 5, 11, tzinfo=UTC))
    else:
        taken(folder, source, datetime(2025, 5, 11, tzinfo=UTC))


def test_files_that_cannot_be_read_are_set_aside_within_the_budget(folder: Path) -> None:
    as_it_is = taken(folder, ORDERS)
    (folder / "orders_7.csv").write_bytes(b"id,customer,at\n1,a,2025-05-01T00:00:00Z\n")  # of another schema
    (folder / "orders_8.csv").write_bytes(b"\xff\xfe\x00id")
    with pytest.raises(DataError) as caught:
        taken(folder, expecting(max_unreadable_files=1))
    assert all(name in str(caught.value) for name in ("orders_7.csv", "orders_8.csv"))
    snapshot = taken(folder, expecting(max_unreadable_files=2))
    assert set(snapshot.unreadable["orders"]) == {"orders_7.csv", "orders_8.csv"}
    assert "paid" in snapshot.unreadable["orders"]["orders_7.csv"]
    assert (snapshot.digest, snapshot.counts) == (as_it_is.digest, as_it_is.counts)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (replace(ORDERS, rules={"Big": pl.col("paid") > 0}), "rule 'Big': use a-z"),
        (replace(ORDERS, rules={"r": pl.col("paid")}), "rule 'r' is of type Float64"),
        (replace(ORDERS, rules={"r": pl.col("payed") > 0}), "'payed' is not in"),
        (replace(ORDERS, rules={"r": pl.col("paid") > pl.col("paid").mean()}), "depends on other rows"),
        (expecting(checks=(Unique(()),)), "names no columns"),
        (expecting(checks=(Unique(("payed",)),)), "'payed' is no column"),
        (expecting(checks=(References(("customer",), "peple", ("name",)),)), "is no other source. .*people"),
        (expecting(checks=(References(("customer",), "orders"),)), "is no other source"),
        (expecting(checks=(References(("customer",), "people"),)), "'customer' is no column"),
        (expecting(checks=(References(("id",), "people", ("name",)),)), "the same types"),
        (replace(expecting(max_age=DAY), known_at=None), "Give the source known_at"),
    ],
)
def test_an_expectation_that_cannot_be_judged_is_refused_where_it_is_declared(source: Source, said: str) -> None:
    with pytest.raises(UseCaseError, match=said):
        case(source)


@pytest.mark.parametrize(
    "wrong",
    [{"max_age": -DAY}, {"min_rows": 0}, {"max_change": -0.1}, {"max_quarantined": 1.1}, {"max_unreadable_files": -1},
     {"max_change": float("nan")}, {"max_quarantined": float("nan")}],
)  # fmt: skip
def test_a_limit_that_means_nothing_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UseCaseError, match=next(iter(wrong))):
        Expectations(**wrong)


def test_a_newest_row_that_is_not_there_is_too_old(folder: Path) -> None:
    snapshot = taken(folder, ORDERS)
    (sentence,) = unmet_limits(expecting(max_age=DAY), snapshot, "orders", None, None)
    assert sentence.startswith("no row became known (max_age 1 day")
