"""Expectations of a source, judged on the rows that a snapshot accepted.

Checks across rows are SQL over the snapshot's files: DuckDB streams them, and spills what does not fit its memory.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from mlops_ray.artifacts import Artifacts, locate
from mlops_ray.ingestion.snapshot import Snapshot
from mlops_ray.use_case import Source
from mlops_ray.use_case.expectations import Check, NeverFalls, References, Unique

if TYPE_CHECKING:
    from pyarrow.dataset import Dataset

MEMORY = "1GB"
EXAMPLES = 3


def unmet_limits(
    source: Source, snapshot: Snapshot, name: str, known_until: datetime | None, before: int | None
) -> list[str]:
    """What is wrong with the number and age of a source's rows, in sentences.

    known_until: the latest moment at which one became known, None if none did. before: how many rows the snapshot
    before accepted.
    """
    asked, counts, unmet = source.expects, snapshot.counts[name], []
    rows = counts.accepted + counts.repaired
    if asked.max_age is not None and known_until is None:
        unmet.append(f"no row became known (max_age {asked.max_age}). Deliver what is missing, or leave max_age out.")
    elif asked.max_age is not None and known_until is not None and snapshot.as_of - known_until > asked.max_age:
        unmet.append(
            f"its newest row became known at {known_until.isoformat()}, {snapshot.as_of - known_until} before "
            f"{snapshot.as_of.isoformat()} (max_age {asked.max_age}). Deliver what is missing, or raise max_age."
        )
    if asked.min_rows is not None and rows < asked.min_rows:
        unmet.append(f"{rows:,} rows were accepted (min_rows {asked.min_rows:,}). Deliver the rest, or lower min_rows.")
    if asked.max_change is not None and before is not None and abs(rows - before) > asked.max_change * before:
        unmet.append(
            f"{rows:,} rows were accepted, and {before:,} by the snapshot before (max_change {asked.max_change:.1%}). "
            f"See what came or went, or raise max_change."
        )
    if asked.max_quarantined is not None and counts.quarantined > asked.max_quarantined * counts.rows_in:
        unmet.append(
            f"{counts.quarantined:,} of {counts.rows_in:,} rows were quarantined (max_quarantined "
            f"{asked.max_quarantined:.1%}). See `mlops-ray quarantine show`; repair the rows, or raise max_quarantined."
        )
    return unmet


def rows_before(artifacts: Artifacts, use_case: str, as_of: datetime) -> dict[str, int]:
    """How many rows of each source the last snapshot of an earlier moment accepted; empty if there is none."""
    last: tuple[datetime, dict[str, int]] = (datetime.min.replace(tzinfo=as_of.tzinfo), {})
    for folder in artifacts.entries("snapshots", use_case):
        manifest: Mapping[str, Any] | None = artifacts.read_json("snapshots", use_case, folder.name, "manifest.json")
        if manifest is None:
            continue
        moment = datetime.fromisoformat(manifest["as_of"])
        if last[0] < moment < as_of:
            last = moment, {name: c["accepted"] + c["repaired"] for name, c in manifest["counts"].items()}
    return last[1]


def unmet_checks(artifacts: Artifacts, snapshot: Snapshot, name: str, source: Source) -> list[str]:
    """Which checks of a source fail on the snapshot's rows, in sentences with examples."""
    if not source.expects.checks:
        return []
    import duckdb

    with TemporaryDirectory(prefix="mlops-ray-checks-") as spill, duckdb.connect() as connection:
        connection.execute(f"SET memory_limit = '{MEMORY}'")
        connection.execute("SET temp_directory = ?", [spill])
        connection.execute("SET preserve_insertion_order = false")
        for other in {name, *(check.source for check in source.expects.checks if isinstance(check, References))}:
            connection.register(other, _rows(artifacts, snapshot, other))
        return [sentence for check in source.expects.checks for sentence in _unmet(connection, name, check)]


def _rows(artifacts: Artifacts, snapshot: Snapshot, source: str) -> "Dataset":
    import pyarrow.dataset as pads  # which imports pandas, for half a second

    url = artifacts.url("snapshots", snapshot.use_case, snapshot.digest, source, "accepted")
    filesystem, path = locate(url)
    return pads.dataset(path, filesystem=filesystem, format="parquet")


def _unmet(connection: Any, name: str, check: Check) -> Iterator[str]:
    shown, broken = _broken(name, check)
    count, *_ = connection.execute(f"SELECT count(*) FROM ({broken})").fetchone()
    if not count:
        return
    order = ", ".join(str(number + 1) for number in range(shown))
    examples = connection.execute(f"SELECT * FROM ({broken}) ORDER BY {order} LIMIT {EXAMPLES}").fetchall()
    listed = "; ".join(", ".join(map(str, row[:shown])) for row in examples)
    yield f"{_sentence(check)}: {count:,}, such as {listed}. Repair the source, or take the check out."


def _sentence(check: Check) -> str:
    match check:
        case Unique(columns):
            return f"values of {', '.join(columns)} that occur in several rows"
        case NeverFalls(column, along, by):
            among = f" of the same {', '.join(by)}" if by else ""
            return f"rows in which {column} is less than in the row{among} before, along {along}"
        case References(columns, source, _):
            return f"values of {', '.join(columns)} that do not occur in source {source}"


def _broken(name: str, check: Check) -> tuple[int, str]:
    """A query for what breaks the check, and how many of its columns are to be shown."""
    match check:
        case Unique(columns):
            names, there = _list(columns), _there(columns)
            return len(columns), (
                f"SELECT {names} FROM {_name(name)} WHERE {there} GROUP BY {names} HAVING count(*) > 1"
            )
        case NeverFalls(column, along, by):
            value, order, of = _name(column), _name(along), f"PARTITION BY {_list(by)} " if by else ""
            before = f"lag({value}) OVER ({of}ORDER BY {order}, {value})"
            names = _list((*by, along, column))
            return len(by) + 2, (
                f"SELECT {names} FROM (SELECT {names}, {before} AS __before FROM {_name(name)} "
                f"WHERE {_there((column, along, *by))}) WHERE {value} < __before"
            )
        case References(columns, source, of):
            there, pairs = _there(columns), zip(columns, of or columns, strict=True)
            same = " AND ".join(f"here.{_name(own)} = there.{_name(other)}" for own, other in pairs)
            return len(columns), (
                f"SELECT DISTINCT {_list(columns)} FROM (SELECT * FROM {_name(name)} WHERE {there}) AS here "
                f"ANTI JOIN {_name(source)} AS there ON {same}"
            )


def _there(columns: tuple[str, ...]) -> str:
    return " AND ".join(f"{_name(column)} IS NOT NULL" for column in columns)


def _list(columns: tuple[str, ...]) -> str:
    return ", ".join(map(_name, columns))


def _name(column: str) -> str:
    doubled = column.replace('"', '""')
    return f'"{doubled}"'
