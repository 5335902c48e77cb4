"""Rows of a view have the types of its definition, exact keys, and an identity that changes with what computes them."""

import importlib.util
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import polars as pl
import pytest

from mlops_ray.artifacts import Artifacts, read_parquet
from mlops_ray.errors import UseCaseError
from mlops_ray.features.definitions import Definitions, View
from mlops_ray.features.history import join_features
from mlops_ray.features.source_tables import given_tables
from mlops_ray.features.transform import _compute, _expect_functions, expect_names
from mlops_ray.features.view_code import view_code
from mlops_ray.features.view_rows import known_rows, typed_rows
from mlops_ray.training.candidates import LogisticRegression
from mlops_ray.use_case import Column, Label, Source, UseCase

NOON = datetime(2013, 6, 1, 12, tzinfo=UTC)
VIEW = View(
    name="delays",
    keys=("carrier",),
    asked=("carrier",),
    features=("delay", "flights", "kind"),
    fields=("delay", "flights", "kind"),
    types={"carrier": "String", "delay": "Float64", "flights": "Int64", "kind": "String"},
    ttl_s=3600,
    columns={},
)


def frame(**changes: Any) -> pl.DataFrame:
    columns: dict[str, Any] = {
        "carrier": ["AA", "UA"],
        "event_timestamp": [NOON, NOON],
        "delay": [1.5, None],
        "flights": [1, 2],
        "kind": ["x", None],
    }
    return pl.DataFrame(columns | changes, schema_overrides={"event_timestamp": pl.Datetime("us", "UTC")})


def test_nan_is_null_and_a_column_without_values_has_the_type_of_its_definition() -> None:
    given = frame(delay=[float("nan"), 0.5], kind=[None, None], further=[1, 2])
    rows = typed_rows(known_rows(given, "delays"), VIEW)
    assert rows["delay"].to_list() == [None, 0.5]
    assert rows.schema["kind"] == pl.String
    assert "further" not in rows.columns


@pytest.mark.parametrize(
    ("column", "values", "given"),
    [
        ("delay", pl.Series([1.5, 2.5], dtype=pl.Float32), "Float32"),
        ("delay", [Decimal("1.5"), Decimal("2.5")], "Decimal"),
        ("delay", [NOON.date(), NOON.date()], "Date"),
        ("delay", [[1.0], [2.0]], "List"),
        ("delay", [timedelta(hours=1), None], "Duration"),
        ("delay", [1, 2], "Int64"),
        ("flights", pl.Series([1, 2], dtype=pl.UInt32), "UInt32"),
        ("flights", [1.0, 2.0], "Float64"),
        ("kind", [1, 2], "Int64"),
        ("carrier", [1, 2], "Int64"),
    ],
)
def test_another_type_than_the_definition_s_is_refused_by_name(column: str, values: Any, given: str) -> None:
    with pytest.raises(UseCaseError, match=rf"'delays': column '{column}' is {given}.* in its definition\. Add"):
        typed_rows(frame(**{column: values}), VIEW)


def test_what_nobody_could_look_up_is_refused() -> None:
    with pytest.raises(UseCaseError, match="key 'carrier' is null in 1 of 2 rows"):
        typed_rows(frame(carrier=["AA", None]), VIEW)
    with pytest.raises(UseCaseError, match="no column 'kind'"):
        typed_rows(frame().drop("kind"), VIEW)
    with pytest.raises(UseCaseError, match="instead of a moment with a time zone"):
        known_rows(frame().with_columns(pl.col("event_timestamp").dt.replace_time_zone(None)), "delays")
    with pytest.raises(UseCaseError, match="created_timestamp_column 'written' is not there"):
        typed_rows(frame(), replace(VIEW, created="written"))


def test_what_is_left_out_or_not_determined_is_counted(tmp_path: Path) -> None:
    """A row without a moment; and two of one key and moment, of which the last by value counts."""
    artifacts = Artifacts(str(tmp_path))
    more = pl.concat([frame(), frame(event_timestamp=[None, NOON], delay=[3.0, 7.0], flights=[3, 2], kind=["x", None])])

    def computed(rows: pl.DataFrame) -> Any:
        return _compute("case", VIEW, lambda tables: rows, "code", artifacts, given_tables({}))()

    found = computed(more)
    assert (found.rows, found.unknown, found.ambiguous, found.code) == (3, 1, 1, "code")
    assert computed(more.reverse()) == found
    entities = frame().select("carrier", "event_timestamp")
    assert join_features(entities, [VIEW], {"delays": found.url})["delay"].to_list() == [1.5, 7.0]
    assert read_parquet(found.url).columns == ["event_timestamp", "carrier", "delay", "flights", "kind"]
    assert computed(frame().clear()).rows == 0


def test_what_a_function_raises_is_the_user_s_with_its_line(tmp_path: Path) -> None:
    artifacts = Artifacts(str(tmp_path))

    def broken(tables: Any) -> Any:
        return tables["nowhere"]

    said = _compute("case", VIEW, broken, "code", artifacts, given_tables({}))()
    assert isinstance(said, str)
    assert "Feature view 'delays': KeyError" in said
    assert 'return tables["nowhere"]' in said


def test_a_function_changes_and_prints_nothing_for_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where it runs in the command's own process."""
    tables = {"flights": frame()}

    def careless(given: Any) -> Any:
        given["flights"].insert_column(0, pl.lit(1).alias("mine"))
        given.clear()
        print("look")
        return frame()

    found = _compute("case", VIEW, careless, "code", Artifacts(str(tmp_path)), given_tables(tables))()
    assert not isinstance(found, str)
    assert tables["flights"].equals(frame())
    assert capsys.readouterr().out == ""


def test_keys_are_compared_as_they_are(tmp_path: Path) -> None:
    """Two accounts beyond 2^53 are two, also where another row's is null."""
    view = replace(VIEW, keys=("account",), asked=("account",), features=("delay",), fields=("delay",),
                   types={"account": "Int64", "delay": "Float64"})  # fmt: skip
    large = 2**53
    rows = pl.DataFrame(
        {"account": [large, large + 1], "event_timestamp": [NOON] * 2, "delay": [1.0, 2.0]},
        schema_overrides={"event_timestamp": pl.Datetime("us", "UTC")},
    )
    entities = pl.DataFrame(
        {"account": [large + 1, None, large], "event_timestamp": [NOON] * 3},
        schema_overrides={"event_timestamp": pl.Datetime("us", "UTC")},
    )

    url = str(tmp_path / "rows.parquet")
    rows.write_parquet(url)
    assert join_features(entities, [view], {"delays": url})["delay"].to_list() == [2.0, None, 1.0]
    texts = entities.with_columns(pl.col("account").cast(pl.String))
    with pytest.raises(UseCaseError, match="entity 'account' is String in the use case and Int64"):
        join_features(texts, [view], {"delays": url})


def test_names_that_mean_something_else_are_refused() -> None:
    columns = (Column("carrier", "text"), Column("distance", "number"), Column("departure", "timestamp"))
    case = UseCase(
        name="departures",
        sources={"departures": Source("departures.csv", (*columns, Column("late", "boolean", outcome=True)))},
        entities=("carrier",),
        event_time="departure",
        label=Label("late", pl.col("late"), pl.col("departure")),
        candidates=(LogisticRegression(),),
        feature_views={"delays": lambda tables: tables["departures"]},
        feature_service="s",
    )
    definitions = Definitions("s", "", (VIEW,), {}, {})

    def refused(sentence: str, view: View) -> None:
        with pytest.raises(UseCaseError, match=sentence):
            expect_names(case, replace(definitions, views=(view,)))

    expect_names(case, definitions)
    refused("a request feature", replace(VIEW, features=("distance",)))
    refused("a column of the request", replace(VIEW, features=(case.event_time,)))
    refused("reserved", replace(VIEW, features=("label_known_at",)))
    refused("not among the entities", replace(VIEW, asked=("planet",)))
    with pytest.raises(UseCaseError, match="declares no function"):
        _expect_functions(case, replace(definitions, views=(replace(VIEW, name="weather"),)))


CODE = """
import polars as pl
from functools import lru_cache
import datetime

LIMIT = 15
TABLE = pl.DataFrame({"a": list(range(1000))})

def helper(x):
    return x + LIMIT

class Recent:
    def __init__(self, hours):
        self.hours = hours
    def __call__(self, tables):
        return helper(tables["flights"].head(self.hours))

def view(tables, hours=3):
    return helper(TABLE)

def closure(hours):
    def inner(tables):
        return hours
    return inner

unrelated = 1
"""


def module(folder: Path, text: str) -> ModuleType:
    file = folder / f"module_{abs(hash(text))}.py"
    file.write_text(text)
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def codes(found: ModuleType) -> dict[str, str]:
    functions = {
        "view": found.view,
        "object": found.Recent(3),
        "partial": partial(found.view, hours=3),
        "closure": found.closure(3),
    }
    return {name: view_code("view", function) for name, function in functions.items()}


def test_a_view_s_code_changes_with_what_it_reaches_and_with_nothing_else(tmp_path: Path) -> None:
    before = codes(module(tmp_path, CODE))
    assert len(set(before.values())) == 4
    same = CODE.replace("unrelated = 1", "unrelated = 2\n\ndef further():\n    pass")
    same = same.replace("    return x + LIMIT", "    # why\n    return (x\n            + LIMIT)")
    assert codes(module(tmp_path, "# a comment\n\n" + same)) == before
    for old, new, changed in (
        ("LIMIT = 15", "LIMIT = 16", {"view", "object", "partial"}),
        ("range(1000)", "[*range(500), 7, *range(501, 1000)]", {"view", "partial"}),
        ("x + LIMIT", "x - LIMIT", {"view", "object", "partial"}),
        ("head(self.hours)", "tail(self.hours)", {"object"}),
        ("hours=3", "hours=4", {"view", "partial"}),
        ("return hours", "return -hours", {"closure"}),
    ):
        after = codes(module(tmp_path, CODE.replace(old, new)))
        assert {name for name in after if after[name] != before[name]} == changed, (old, new)
    found = module(tmp_path, CODE)
    assert view_code("view", found.Recent(24)) != before["object"]
    assert view_code("view", partial(found.view, hours=24)) != before["partial"]
    assert view_code("view", found.closure(24)) != before["closure"]
    assert view_code("view", lambda tables: 1) != view_code("view", lambda tables: 2)
