"""A view that is computed in parts has the rows that it has whole, and what is new is all that is computed."""

import json
import random
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from mlops_ray import Column, Label, Source, Tables, UseCase
from mlops_ray.artifacts import Artifacts, read_parquet
from mlops_ray.config import Settings, load_settings
from mlops_ray.errors import UseCaseError
from mlops_ray.features import divide_by_key, divide_by_time, source_tables, spread, stretches, transform
from mlops_ray.features.day_cells import cell_of
from mlops_ray.features.declared_views import declared_views
from mlops_ray.features.definitions import Definitions, View
from mlops_ray.features.divide_by_key import KeyedView, bucket_by_month
from mlops_ray.features.stretches import Stretch
from mlops_ray.features.transform import FeatureRows, is_there
from mlops_ray.features.view_rows import in_order, rows_of
from mlops_ray.ingestion import shared_tables
from mlops_ray.ingestion.ingest import ingest
from mlops_ray.ingestion.snapshot import last_snapshot
from mlops_ray.training.candidates import LogisticRegression
from mlops_ray.use_case import Aggregation, DividedView, windowed_views

START, DAY = datetime(2025, 1, 1, tzinfo=UTC), timedelta(days=1)
LOADS = Source(
    path="loads_*.csv",
    columns=(
        Column("ship", "text"), Column("port", "text"), Column("sailed", "timestamp"),
        Column("docked", "timestamp", nullable=True), Column("load", "number", nullable=True, outcome=True),
        Column("late", "boolean", nullable=True, outcome=True),
    ),
    known_at=pl.coalesce("docked", "sailed"),
)  # fmt: skip
PORTS = Source(path="ports.csv", columns=(Column("port", "text"), Column("berths", "integer")))


def busy(tables: Tables) -> pl.DataFrame:
    """Per port and day of docking what came within the two days before, and the port's size."""
    rows = tables["loads"].drop_nulls("docked").sort("docked", maintain_order=True)
    daily = rows.rolling("docked", period="2d", group_by="port").agg(ships=pl.len().cast(pl.Int64))
    daily = daily.unique(["port", "docked"], keep="last").join(tables["ports"], on="port", how="left")
    return daily.rename({"docked": "event_timestamp"})


def ranks(tables: Tables) -> pl.DataFrame:
    """The how many-th load of its ship each is: from the beginning."""
    rows = tables["loads"].drop_nulls("docked").sort("docked", maintain_order=True)
    return rows.select("ship", event_timestamp="docked", number=pl.int_range(pl.len()).over("ship") + 1)


VIEWS: Mapping[str, Any] = {
    **windowed_views(
        "port", "loads", ("port",), [3 * DAY],
        {
            "loads": Aggregation("count", pl.col("load")),
            "mean": Aggregation("mean", pl.col("load")),
            "spread": Aggregation("std", pl.col("load")),
            "sailings": Aggregation("count", pl.col("ship"), known_at=pl.col("sailed")),
        },
        known_at=pl.col("docked"),
    ),
    "busy": DividedView(busy, looks_back=2 * DAY),
}  # fmt: skip
CASE = UseCase(
    name="ships",
    sources={"loads": LOADS, "ports": PORTS},
    entities=("ship", "port"),
    event_time="sailed",
    label=Label("late", value=pl.col("late"), known_at=pl.col("docked")),
    candidates=(LogisticRegression(),),
    request_features={},
    feature_views=VIEWS,
    feature_service="ships",
)
BUSY = View(
    "busy", ("port",), ("port",), ("ships", "berths"), ("ships", "berths"),
    {"port": "String", "ships": "Int64", "berths": "Int64"}, 86_400.0, {},
)  # fmt: skip
RANKS = View("ranks", ("ship",), ("ship",), ("number",), ("number",), {"ship": "String", "number": "Int64"}, 1.0, {})


def definitions(case: UseCase) -> Definitions:
    views = []
    for one in declared_views(case):
        named = tuple(one.keys), tuple(one.keys), tuple(one.features), tuple(one.features)
        made = View(one.name, *named, {**one.keys, **one.features}, one.ttl_s, {})
        views.append({"busy": BUSY, "ranks": RANKS}.get(one.name, made))
    return Definitions("ships", "d", tuple(views), {}, {})


def write_days(folder: Path, first: int, end: int, seed: int = 0) -> None:
    """A file: what sailed on these days and docked up to 40 hours later, or has not docked."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ports.csv").write_text("port,berths\nA,3\nB,7\n")
    lines = ["ship,port,sailed,docked,load,late"]
    for number in range(first, end):
        chance = random.Random(number * 1000 + seed)
        for _ in range(30):
            sailed = START + number * DAY + timedelta(minutes=chance.randrange(0, 1440, 10))
            docked = sailed + timedelta(minutes=chance.randrange(60, 2400, 10))
            known = chance.random() > 0.1
            lines.append(
                f"S{chance.randrange(6)},{chance.choice('AB')},{sailed.isoformat()},"
                f"{docked.isoformat() if known else ''},{chance.uniform(-5, 5) * 10 ** chance.randrange(5)},"
                f"{'true' if chance.random() > 0.5 else 'false'}"
            )
    (folder / f"loads_{first:04}.csv").write_text("\n".join(lines) + "\n")


class Setting:
    """A use case's data in days, and what of it is computed when."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        self.settings: Settings = load_settings(state=str(folder / "state"), data=str(folder / "data"))
        self.data, self.monkeypatch = folder / "data", monkeypatch
        self.artifacts = Artifacts(self.settings.artifacts)
        self.computed: list[tuple[str, Stretch]] = []
        self.calls: list[list[str]] = []
        compute = divide_by_time.compute_run

        def seen(artifacts: Any, use_case: Any, run: Any, views: Any, files: Any) -> Any:
            self.computed += [(view.view.name, stretch) for view, _ in views for stretch in run]
            self.calls.append([view.view.name for view, _ in views])
            return compute(artifacts, use_case, run, views, files)

        monkeypatch.setattr(divide_by_time, "compute_run", seen)
        monkeypatch.setattr(shared_tables, "TABLE_BYTES", 20_000)

    def rows(self, case: UseCase = CASE, divided: bool = True) -> dict[str, FeatureRows]:
        snapshot = ingest(case, self.settings, START + 400 * DAY, "test", dict.fromkeys(case.sources, "contract"))
        self.computed.clear()
        self.calls.clear()
        self.monkeypatch.setattr(transform, "HERE_BYTES", 0 if divided else 1 << 40)
        self.monkeypatch.setattr(transform, "AT_ONCE_BYTES", 0 if divided else 1 << 40)
        found = transform.transform(case, self.settings, snapshot, definitions(case))
        return {one.view: one for one in found}


@pytest.fixture
def setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setting:
    return Setting(tmp_path, monkeypatch)


def test_parts_have_the_rows_of_the_whole_bit_for_bit(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    write_days(setting.data, 0, 30)
    whole = setting.rows(divided=False)
    tables = {name: read_parquet(one.url) for name, one in whole.items()}
    assert setting.computed == []
    for part_rows in (60, 200, 10**6):
        monkeypatch.setattr(stretches, "PART_ROWS", part_rows)
        setting.artifacts.delete("features")
        found = setting.rows()
        assert {name: one.digest for name, one in found.items()} == {name: one.digest for name, one in whole.items()}
        for name, one in found.items():
            assert len(one.parts) > 2
            assert one.rows == whole[name].rows == sum(part.rows for part in one.parts)
            assert all(a.last < b.first for a, b in pairwise(one.parts))
            assert read_parquet(one.url).equals(tables[name])
            assert is_there(setting.artifacts, one)


def test_a_new_day_computes_a_day(setting: Setting) -> None:
    write_days(setting.data, 0, 40)
    setting.rows()
    assert setting.rows() != {}
    assert setting.computed == [], "nothing is new"
    write_days(setting.data, 40, 41)
    after = setting.rows()
    oldest = min(stretch.first for _, stretch in setting.computed)
    assert (START + 40 * DAY).date() - oldest <= timedelta(days=3)  # its rows change nothing that is older
    calls = [view for views in setting.calls for view in views]
    assert len(calls) < len(setting.computed), "days that follow one another are computed together"
    setting.artifacts.delete("features")
    assert {name: one.digest for name, one in setting.rows().items()} == {n: one.digest for n, one in after.items()}


def test_a_function_that_reads_little_beside_much_needs_no_ray(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    def berths(tables: Tables) -> pl.DataFrame:
        return (
            tables["ports"]
            .select("port", "berths", ships=pl.lit(1), event_timestamp=pl.lit(START))
            .cast({"ships": pl.Int64})
        )

    def start_ray() -> None:
        raise AssertionError("Ray is started")

    write_days(setting.data, 0, 10)
    case = replace(CASE, feature_views={"busy": berths})
    snapshot = ingest(case, setting.settings, START + 400 * DAY, "test", dict.fromkeys(case.sources, "contract"))
    monkeypatch.setattr(transform, "HERE_BYTES", 4_000)
    monkeypatch.setattr(transform, "AT_ONCE_BYTES", 0)
    monkeypatch.setattr(spread, "HERE_BYTES", 0)
    (found,) = transform.transform(case, setting.settings, snapshot, Definitions("s", "d", (BUSY,), {}, {}), start_ray)
    assert found.rows == 2
    much = replace(CASE, feature_views={"busy": busy})
    with pytest.raises(AssertionError, match="Ray is started"):
        transform.transform(much, setting.settings, snapshot, Definitions("s", "d", (BUSY,), {}, {}), start_ray)


def test_many_days_of_a_day_each_become_few_parts_of_the_same_rows(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    for end in range(5, 24):
        write_days(setting.data, end - 1 if end > 5 else 0, end)
        monkeypatch.setattr(stretches.to_merge, "__defaults__", (4,))
        found = setting.rows()
        assert max(len(one.parts) for one in found.values()) <= 2 * 4 + 4
    assert setting.rows() == found, "nothing is new, nothing is written otherwise"
    assert setting.computed == []
    oldest = found["port_3d"].parts[0]
    assert oldest.last - oldest.first > 4 * DAY
    setting.artifacts.delete("features")
    assert {name: one.digest for name, one in setting.rows().items()} == {n: one.digest for n, one in found.items()}


def test_a_correction_computes_what_it_touches_and_nothing_else(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stretches, "PART_ROWS", 200)
    for first, end in ((0, 12), (12, 13), (13, 40)):
        write_days(setting.data, first, end)
    before = setting.rows()
    write_days(setting.data, 12, 13, seed=7)
    after = setting.rows()
    touched = [stretch for view, stretch in setting.computed if view == "port_3d"]
    # Sailed on that day, docked up to 40 hours later, in windows of three days: the parts that have one of these days.
    first, last = START + 12 * DAY, START + 18 * DAY
    parts = [part for part in before["port_3d"].parts if part.last >= first and part.first < last]
    assert touched
    assert min(touched).first >= parts[0].first.date()
    assert max(touched).end <= parts[-1].last.date() + DAY
    assert len(parts) < len(before["port_3d"].parts) / 2
    names = {part.url.rsplit("/", 1)[1] for part in before["port_3d"].parts if part not in parts}
    assert names < {part.url.rsplit("/", 1)[1] for part in after["port_3d"].parts}
    setting.artifacts.delete("features")
    assert {name: one.digest for name, one in setting.rows().items()} == {n: one.digest for n, one in after.items()}


def test_other_code_computes_all_again_and_other_division_nothing(setting: Setting) -> None:
    write_days(setting.data, 0, 10)
    before = setting.rows()
    three = windowed_views("port", "loads", ("port",), [3 * DAY], {"loads": Aggregation("sum", pl.col("load"))},
                           known_at=pl.col("docked"))  # fmt: skip
    after = setting.rows(replace(CASE, feature_views={**VIEWS, **three}))
    assert {view for view, _ in setting.computed} == {"port_3d"}
    assert after["port_3d"].code != before["port_3d"].code
    assert after["busy"] == before["busy"]
    plain = setting.rows(replace(CASE, feature_views={**VIEWS, "busy": busy}))
    assert plain["busy"].code == before["busy"].code, "it computes the same, so versions read the same project"


def test_the_same_rows_may_be_a_file_or_parts_one_after_the_other(setting: Setting) -> None:
    write_days(setting.data, 0, 5)
    found = [setting.rows(divided=divided)["port_3d"] for divided in (False, True, False, True)]
    assert len({one.digest for one in found}) == len({one.url for one in found}) == 1
    assert all(is_there(setting.artifacts, one) for one in found[1:])
    assert read_parquet(found[2].url).height == found[0].rows


def test_a_part_that_is_gone_is_computed_again(setting: Setting) -> None:
    write_days(setting.data, 0, 10)
    before = setting.rows()["port_3d"]
    place = before.parts[2].url.removeprefix(f"{setting.artifacts.root}/").split("/")
    setting.artifacts.delete(*place)
    assert not is_there(setting.artifacts, before)
    assert setting.rows()["port_3d"] == before
    assert is_there(setting.artifacts, before)


@pytest.mark.parametrize("divided", [True, False])
def test_a_function_that_looks_further_than_it_says_is_refused_with_the_first_difference(
    setting: Setting, divided: bool
) -> None:
    write_days(setting.data, 0, 12)
    case = replace(CASE, feature_views={"ranks": DividedView(ranks, looks_back=DAY)})
    difference = r"number at event_timestamp 2025.* and ship 'S\d' is \d+ in the whole and \d+ in a part"
    with pytest.raises(UseCaseError, match=rf"'ranks' is declared with looks_back=.*days=1.*{difference}"):
        setting.rows(case, divided)


def test_a_function_that_looks_across_its_keys_is_refused(setting: Setting) -> None:
    write_days(setting.data, 0, 12)
    case = replace(CASE, feature_views={"ranks": DividedView(ranks, by=("port",))})
    with pytest.raises(UseCaseError, match=r"'ranks' is declared with by=\('port',\), but its rows depend on more"):
        setting.rows(case)


def test_buckets_of_keys_have_the_rows_of_the_whole(setting: Setting) -> None:
    write_days(setting.data, 0, 40)
    case = replace(CASE, feature_views={"ranks": DividedView(ranks, by=("ship",))})
    whole = setting.rows(case, divided=False)["ranks"]
    snapshot = last_snapshot(setting.artifacts, "ships")
    one = KeyedView(RANKS, case.feature_views["ranks"], "code")  # type: ignore[arg-type]
    streams = [list(bucket_by_month(setting.artifacts, snapshot, one, number, 3)) for number in range(3)]
    assert all(head["months"] == sorted(head["months"]) for head, *_ in streams)
    assert sum(len(parts) for _, *parts in streams) > 3
    found, _ = in_order(RANKS, pl.concat(part for _, *parts in streams for part in parts))
    assert found.equals(read_parquet(whole.url))


def keyed(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> tuple[UseCase, list[set[str]]]:
    """A view that is divided by ships alone, over a table a day; and the ships that each call of it has seen."""
    monkeypatch.setattr(shared_tables, "TABLE_BYTES", 1)
    seen: list[set[str]] = []
    really = rows_of

    def watched(view: View, function: Any, tables: Any) -> Any:
        seen.append(set(tables["loads"]["ship"]))
        return really(view, function, tables)

    monkeypatch.setattr(divide_by_key, "rows_of", watched)
    return replace(CASE, feature_views={"ranks": DividedView(ranks, by=("ship",))}), seen


def of_ships(folder: Path, number: int, *ships: str) -> None:
    """A file of one day with a row for each of these ships."""
    sailed = START + number * DAY
    lines = [f"{ship},A,{sailed.isoformat()},{(sailed + timedelta(hours=2)).isoformat()},1.5,true" for ship in ships]
    (folder / f"loads_{number:04}.csv").write_text("\n".join(["ship,port,sailed,docked,load,late", *lines]) + "\n")


@pytest.mark.parametrize("part_rows", [10**6, 300])
def test_of_a_view_that_is_divided_by_keys_those_are_computed_that_have_new_rows(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, part_rows: int
) -> None:
    case, seen = keyed(setting, monkeypatch)
    monkeypatch.setattr(divide_by_key, "PART_ROWS", part_rows)
    write_days(setting.data, 0, 40)
    before = setting.rows(case)["ranks"]
    assert set.union(*seen) == {f"S{number}" for number in range(6)}
    for change in (
        lambda: of_ships(setting.data, 40, "S1"),  # new
        lambda: of_ships(setting.data, 75, "S4", "S1"),  # in months of its own
        lambda: of_ships(setting.data, 40, "S4"),  # corrected: S1 is gone there
        lambda: (setting.data / "loads_0040.csv").unlink(),
        lambda: of_ships(setting.data, -40, "S2"),  # late, before all others
    ):
        seen.clear()
        change()
        after = setting.rows(case)["ranks"]
        assert set.union(*seen) < {"S1", "S2", "S4"}
        assert after.digest != before.digest
        assert setting.rows(case, divided=False)["ranks"].digest == after.digest
        before = after


def test_all_keys_are_computed_where_a_table_changes_that_every_key_sees(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, seen = keyed(setting, monkeypatch)
    write_days(setting.data, 0, 10)
    setting.rows(case)
    seen.clear()
    (setting.data / "ports.csv").write_text("port,berths\nA,3\nB,8\n")
    found = setting.rows(case)["ranks"]
    assert len(set.union(*seen)) == 6
    assert setting.rows(case, divided=False)["ranks"].digest == found.digest


def test_keys_that_a_function_makes_others_of_are_computed_with_all(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(tables: Tables) -> pl.DataFrame:
        return ranks(tables).with_columns(ship=pl.col("ship") + "'")

    case, seen = keyed(setting, monkeypatch)
    case = replace(case, feature_views={"ranks": DividedView(other, by=("ship",))})
    write_days(setting.data, 0, 10)
    setting.rows(case)
    of_ships(setting.data, 10, "S1")
    found = setting.rows(case)["ranks"]
    assert len(seen[-1]) == 6
    assert setting.rows(case, divided=False)["ranks"].digest == found.digest


def test_a_function_that_says_nothing_is_refused_above_a_size(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_days(setting.data, 0, 12)
    case = replace(CASE, feature_views={"ranks": ranks})
    assert setting.rows(case)["ranks"].parts == ()
    monkeypatch.setattr(source_tables, "WHOLE_BYTES", 10_000)
    with pytest.raises(UseCaseError, match=r"'ranks' reads whole tables of .*loads.*DividedView\(function, looks_back"):
        setting.rows(case)

    def sizes(tables: Tables) -> pl.DataFrame:
        return tables["ports"].select(
            "port", pl.lit(START).alias("event_timestamp"), "berths", ships=pl.lit(1, pl.Int64)
        )

    small = replace(CASE, feature_views={"busy": sizes})
    assert setting.rows(small)["busy"].rows == 2, "a table that it does not read counts for nothing"


def test_a_day_is_known_by_its_rows_and_their_order_whatever_files_they_stand_in() -> None:
    rows = pl.DataFrame({"ship": ["a", "b", None, "a"], "load": [1.0, None, 3.0, 1.0]})
    whole = cell_of(rows)
    assert all(cell_of(rows[:at]) + cell_of(rows[at:]) == whole for at in range(5))
    assert whole != cell_of(rows[[1, 0, 2, 3]])
    assert whole != cell_of(rows.fill_null(0.0))


def test_parts_survive_the_record_of_a_step(setting: Setting) -> None:
    write_days(setting.data, 0, 5)
    for one in setting.rows().values():
        assert FeatureRows.from_json(json.loads(json.dumps(one.to_json()))) == one


@pytest.mark.parametrize(
    ("views", "sentence"),
    [
        ({"v": DividedView(busy, by=("planet",))}, "divided by planet, and no source has them all"),
        (windowed_views("v", "load", ("port",), [DAY], {"n": Aggregation("count", pl.col("load"))}, pl.col("docked")),
         r"'load' is no source\. Did you mean 'loads'"),
        (windowed_views("v", "loads", ("prt",), [DAY], {"n": Aggregation("count", pl.col("load"))}, pl.col("docked")),
         r"key 'prt' is not in source 'loads'\. Did you mean 'port'"),
        (windowed_views("v", "loads", ("port",), [DAY], {"n": Aggregation("sum", pl.col("ship"))}, pl.col("docked")),
         "sum of values of type String. It takes a number or a condition"),
        (windowed_views("v", "loads", ("port",), [DAY], {"n": Aggregation("max", pl.col("load").shift())},
                        pl.col("docked")), "its values are of several rows"),
        (windowed_views("v", "loads", ("port",), [DAY], {"n": Aggregation("max", pl.col("load"))}, pl.col("load")),
         "known_at is of type Float64"),
    ],
)  # fmt: skip
def test_what_cannot_be_computed_is_refused_when_it_is_declared(views: Mapping[str, Any], sentence: str) -> None:
    with pytest.raises(UseCaseError, match=sentence):
        replace(CASE, feature_views=views)


def test_declarations_without_sense_are_refused() -> None:
    loads = {"n": Aggregation("count", pl.col("load"))}
    with pytest.raises(UseCaseError, match="nothing says when 'n' becomes known"):
        windowed_views("v", "loads", ("port",), [DAY], loads)
    with pytest.raises(UseCaseError, match="is not above 0, or stands there twice"):
        windowed_views("v", "loads", ("port",), [DAY, 24 * timedelta(hours=1)], loads, pl.col("docked"))
    with pytest.raises(UseCaseError, match="says neither by which columns nor how far"):
        DividedView(busy)
    names = windowed_views("v", "loads", ("port",), [DAY, 7 * DAY, timedelta(minutes=90)], loads, pl.col("docked"))
    assert list(names) == ["v_24h", "v_7d", "v_90m"]
    assert list(names["v_7d"].aggregations) == ["v_7d_n"]
