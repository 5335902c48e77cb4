"""A missing value becomes what was last known of the same thing, never what was known later, and each is told."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlops_ray import Column, Label, Source, UseCase
from mlops_ray.artifacts import Artifacts, digest_each_row
from mlops_ray.catalogue.erase import erase_person_from_data
from mlops_ray.catalogue.person import Person
from mlops_ray.config import Settings
from mlops_ray.errors import UseCaseError
from mlops_ray.governance.control_store import open_store
from mlops_ray.governance.events import SYSTEM
from mlops_ray.ingestion import shared_tables
from mlops_ray.ingestion.ingest import ingest
from mlops_ray.ingestion.snapshot import Snapshot
from mlops_ray.pipeline.steps.ingest import contract
from mlops_ray.training.candidates import GradientBoosting
from mlops_ray.use_case import LastKnown

AS_OF = datetime(2025, 6, 1, tzinfo=UTC)
SOURCE = Source(
    path="weights_*.csv",
    columns=(
        Column("patient", "text", nullable=True),
        Column("at", "timestamp"),
        Column("weight", "number", nullable=True, minimum=1),
        Column("ward", "text", nullable=True),
    ),
    known_at=pl.col("at"),
    last_known=(LastKnown("weight", by=("patient",), within=timedelta(days=30)), LastKnown("ward", by=("patient",))),
)


def case_of(source: Source = SOURCE) -> UseCase:
    return UseCase(
        name="weights",
        owner="ann",
        sources={"visits": Source(path="visits.csv", columns=VISITS, known_at=pl.col("at")), "weights": source},
        entities=("patient",),
        event_time="at",
        label=Label("long", value=pl.col("minutes") > 20, known_at=pl.col("at")),
        candidates=(GradientBoosting(),),
    )


VISITS = (Column("patient", "text"), Column("at", "timestamp"), Column("minutes", "integer", nullable=True))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "visits.csv").write_text("patient,at,minutes\na,2025-01-01,9\n".replace("01,9", "01T00:00Z,9"))
    return tmp_path


def write(folder: Path, name: str, *lines: str) -> None:
    text = "\n".join(["patient,at,weight,ward", *lines]) + "\n"
    (folder / "data" / f"weights_{name}.csv").write_text(text)


def ingested(folder: Path, state: str = "state", as_of: datetime = AS_OF, source: Source = SOURCE) -> Snapshot:
    case = case_of(source)
    contracts = {name: contract(one) for name, one in case.sources.items()}
    return ingest(case, places(folder, state), as_of, "code", contracts)


def places(folder: Path, state: str = "state") -> Settings:
    return Settings(state=f"{folder}/{state}", data=f"{folder}/data")


def rows(folder: Path, snapshot: Snapshot, state: str = "state") -> list[tuple[Any, ...]]:
    table = snapshot.tables(Artifacts(places(folder, state).artifacts))["weights"]
    found = table.with_columns(pl.col("at").dt.strftime("%m-%d")).select("patient", "at", "weight", "ward")
    return sorted(found.rows(), key=str)


def test_a_missing_value_is_what_was_last_known_before_and_of_the_same_thing(folder: Path) -> None:
    write(
        folder,
        "1",
        "a,2025-01-01T00:00Z,80,east",
        "a,2025-01-05T00:00Z,,",  # 80, east
        "a,2025-01-09T00:00Z,82,",  # east
        "a,2025-01-20T00:00Z,,west",  # 82
        "a,2025-03-20T00:00Z,,",  # too long ago; west
        "b,2025-01-05T00:00Z,,",  # nothing is known of b yet
        "b,2025-01-06T00:00Z,60,",
        ",2025-01-07T00:00Z,,",  # of nobody
        "c,2025-01-01T00:00Z,50,",
        "c,2025-01-01T00:00Z,51,",
        "c,2025-01-02T00:00Z,,",  # two values of one moment
        "d,2025-01-01T00:00Z,70,",
        "d,2025-01-01T00:00Z,,east",  # of the same moment
    )
    snapshot = ingested(folder)
    assert rows(folder, snapshot) == sorted(
        [
            ("a", "01-01", 80, "east"), ("a", "01-05", 80, "east"), ("a", "01-09", 82, "east"),
            ("a", "01-20", 82, "west"), ("a", "03-20", None, "west"), ("b", "01-05", None, None),
            ("b", "01-06", 60, None), (None, "01-07", None, None), ("c", "01-01", 50, None),
            ("c", "01-01", 51, None), ("c", "01-02", None, None), ("d", "01-01", 70, None),
            ("d", "01-01", None, "east"),
        ],
        key=str,
    )  # fmt: skip
    counts = snapshot.counts["weights"]
    assert (counts.rows_in, counts.accepted, counts.repaired) == (13, 9, 4)
    assert counts.repairs == {"ward:last_known": 3, "weight:last_known": 2}
    told = snapshot.repairs(Artifacts(places(folder).artifacts), "weights").sort("__column", "__line")
    assert told.select("__line", "__column", "__old", "__new", "patient").rows() == [
        (3, "ward", None, "east", "a"), (4, "ward", None, "east", "a"), (6, "ward", None, "west", "a"),
        (3, "weight", None, "80.0", "a"), (5, "weight", None, "82.0", "a"),
    ]  # fmt: skip
    assert told["__since"][3] == datetime(2025, 1, 1, tzinfo=UTC)
    assert snapshot.repairs(Artifacts(places(folder).artifacts), "visits").is_empty()


def test_a_value_comes_from_files_that_were_read_before_as_if_all_were_read_at_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_tables, "TABLE_BYTES", 1)
    write(folder, "2", "a,2025-02-01T00:00Z,80,", "a,2025-02-20T00:00Z, ,")
    first = ingested(folder)
    write(folder, "3", "a,2025-02-25T00:00Z,,", "b,2025-02-25T00:00Z,7,")
    ingested(folder)
    write(folder, "1", "a,2025-02-10T00:00Z,90,")  # late: it is what the others should have had
    grown, at_once = ingested(folder), ingested(folder, "other")
    assert (grown.digest, grown.counts) == (at_once.digest, at_once.counts)
    assert [row[2] for row in rows(folder, grown) if row[0] == "a"] == [80, 90, 90, 90]
    assert [row[2] for row in rows(folder, first)] == [80, 80]
    table = grown.tables(Artifacts(places(folder).artifacts))["weights"]
    assert digest_each_row(table).hex() == grown.content["weights"]["accepted"]


def test_nothing_is_taken_from_what_was_not_known_yet_or_does_not_count(folder: Path) -> None:
    write(folder, "1", "a,2025-02-01T00:00Z,80,", "a,2025-02-10T00:00Z,0,", "a,2025-02-20T00:00Z,,")
    before = ingested(folder, as_of=datetime(2025, 2, 15, tzinfo=UTC))
    assert [row[2] for row in rows(folder, before)] == [80]
    assert [row[2] for row in rows(folder, ingested(folder))] == [80, 80]  # that of 0 is in quarantine


EVENTS = st.lists(
    st.tuples(st.sampled_from("ab"), st.integers(1, 28), st.one_of(st.none(), st.integers(1, 3))),
    min_size=1,
    max_size=14,
)


@given(events=EVENTS, cut=st.integers(0, 14))
@settings(max_examples=15, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_it_is_what_the_definition_says_however_the_rows_are_divided(
    tmp_path_factory: pytest.TempPathFactory, events: list[tuple[str, int, int | None]], cut: int
) -> None:
    folder = tmp_path_factory.mktemp("divided")
    (folder / "data").mkdir()
    (folder / "data" / "visits.csv").write_text("patient,at,minutes\na,2025-01-01T00:00Z,9\n")
    for number, part in enumerate((events[:cut], events[cut:])):
        write(
            folder, str(number), *(f"{who},2025-01-{day:02}T00:00Z,{'' if w is None else w}," for who, day, w in part)
        )
    wanted = []
    for who, day, weight in events:
        before = [(d, w) for one, d, w in events if one == who and d < day and w is not None]
        last = {w for d, w in before if d == max(d for d, _ in before)}
        filled = last.pop() if weight is None and len(last) == 1 else weight
        wanted.append((who, f"01-{day:02}", filled, None))
    snapshot = ingested(folder)
    assert rows(folder, snapshot) == sorted(wanted, key=str)
    table = snapshot.tables(Artifacts(places(folder).artifacts))["weights"]
    assert digest_each_row(table).hex() == snapshot.content["weights"]["accepted"]
    counts = snapshot.counts["weights"]
    assert counts.rows_in == counts.accepted + counts.repaired == len(events)


def test_a_person_is_erased_from_what_was_told_of_repairs(folder: Path) -> None:
    write(folder, "1", "P77X,2025-02-01T00:00Z,80,", "P77X,2025-02-20T00:00Z,,", "b,2025-02-20T00:00Z,1,")
    snapshot, store = ingested(folder), open_store(places(folder))
    done = erase_person_from_data(places(folder), store, SYSTEM, Person.of("patient", "P77X"), "request 17")
    assert (done.rows["snapshots"], done.rows["repairs"]) == (2, 1)
    assert snapshot.repairs(Artifacts(places(folder).artifacts), "weights").is_empty()


WEIGHT = SOURCE.last_known[0]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"last_known": (replace(WEIGHT, column="wieght"),)}, "weight"),
        ({"last_known": (replace(WEIGHT, by=()),)}, "by is empty"),
        ({"last_known": (replace(WEIGHT, column="at"),)}, "nullable"),
        ({"last_known": (replace(WEIGHT, within=timedelta()),)}, "above zero"),
        ({"last_known": (WEIGHT, WEIGHT)}, "twice"),
        ({"known_at": None}, "Give the source known_at"),
        ({"derived": {"tons": pl.col("weight") / 1000}}, "derived column 'tons' needs it"),
        ({"rules": {"heavy": pl.col("weight") > 2}}, "rule 'heavy' needs it"),
        ({"key": ("weight",)}, "its key needs it"),
    ],
)
def test_a_declaration_that_cannot_be_kept_is_refused(change: dict[str, Any], why: str) -> None:
    with pytest.raises(UseCaseError, match=why):
        case_of(replace(SOURCE, **change))


def test_what_callers_send_is_not_filled_in() -> None:
    case = case_of()
    visits = replace(case.sources["visits"], last_known=(LastKnown("minutes", by=("patient",)),))
    with pytest.raises(UseCaseError, match="callers send it"):
        replace(
            case,
            sources={**case.sources, "visits": visits},
            label=Label("long", value=pl.col("at").is_not_null(), known_at=pl.col("at")),
            request_features={"minutes": pl.col("minutes")},
        )
