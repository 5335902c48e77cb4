"""The online store at past moments, and what a reader says of values that are not there."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.features.definitions import Definitions, project_of, read_definitions
from mlops_ray.features.online.history import OnlineHistory
from mlops_ray.features.online.materialize import materialize
from mlops_ray.features.online.row import OnlineRow
from mlops_ray.features.store import Store
from mlops_ray.features.transform import FeatureRows

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

NOON = datetime(2013, 6, 1, 12, tzinfo=UTC)
TTL, TICK = timedelta(hours=3), timedelta(seconds=1)  # Feast's online stores keep whole seconds
DEFINITIONS = """
from datetime import timedelta
from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Float64, Int64, String

carrier = Entity(name="carrier", value_type=ValueType.STRING)
flight = Entity(name="flight", value_type=ValueType.INT64)
delays = FeatureView(
    name="delays", entities=[carrier, flight], ttl=timedelta(hours=3),
    schema=[Field(name="delay", dtype=Float64), Field(name="gate", dtype=String)],
    source=FileSource(name="delays", path="d", timestamp_field="event_timestamp", created_timestamp_column="made"),
)
loads = FeatureView(
    name="loads", entities=[carrier], ttl=timedelta(hours=3), schema=[Field(name="load", dtype=Int64)],
    source=FileSource(name="loads", path="l", timestamp_field="event_timestamp", field_mapping={"weight": "load"}),
)
service = FeatureService(name="service", features=[delays, loads])
"""


def event_rows(count: int, seed: int) -> list[dict[str, Any]]:
    """Some at the same time, some where a ttl ends exactly or a second before or after."""
    random = np.random.default_rng(seed)
    steps = [timedelta(0), TTL, TTL + TICK, TTL - TICK, timedelta(minutes=17), timedelta(hours=1)]
    return [
        {
            "carrier": str(random.choice(["AA", "UA"])),
            "flight": int(random.choice([1, 2**53 + 1])),
            "event_timestamp": NOON - steps[random.integers(6)] - steps[random.integers(6)],
            "made": NOON + timedelta(hours=n % 5 - 4, seconds=n),
            "delay": None if random.random() < 0.2 else float(n),
            "gate": str(random.choice(["A", "", "ß"])),
        }
        for n in range(count)
    ]


@pytest.fixture(scope="module")
def definitions(tmp_path_factory: pytest.TempPathFactory) -> Definitions:
    folder = tmp_path_factory.mktemp("repository")
    (folder / "views.py").write_text(DEFINITIONS)
    found = read_definitions(folder, "service")
    assert found is not None
    return found


def feature_rows(folder: Path, delays: list[dict[str, Any]], loads: list[dict[str, Any]]) -> list[FeatureRows]:
    artifacts = Artifacts(Settings(state=str(folder), data=str(folder)).artifacts)
    utc = pl.Datetime("us", "UTC")
    tables = {
        "delays": pl.DataFrame(delays, schema_overrides={"event_timestamp": utc, "made": utc, "delay": pl.Float64}),
        "loads": pl.DataFrame(loads).with_columns(pl.col(pl.Datetime).cast(utc)),
    }
    urls = {name: artifacts.write_table(table, f"{name}.parquet") for name, table in tables.items()}
    return [FeatureRows(name, url, "", tables[name].height) for name, url in urls.items()]


def newest(rows: list[dict[str, Any]], time: str, moment: datetime, **key: Any) -> Mapping[str, Any] | None:
    """Naively: of the rows of a key that were known at the moment the latest, of several the one made last."""
    known = [row for row in rows if max(row[time], row.get("made", row[time])) <= moment]
    own = [row for row in known if all(row[name] == value for name, value in key.items())]
    return max(own, key=lambda row: (row[time], row.get("made", NOON)), default=None)


@pytest.mark.parametrize("seed", range(4))
def test_it_holds_at_each_moment_what_a_plain_search_finds(tmp_path: Path, definitions: Definitions, seed: int) -> None:
    delays = event_rows(60, seed)
    loads = [{"carrier": "AA", "event_timestamp": NOON - timedelta(hours=n), "weight": 2**60 + n} for n in range(9)]
    urls = {found.view: found.url for found in feature_rows(tmp_path, delays, loads)}
    moments = [NOON + shift for shift in (-2 * TTL, -TTL, -TICK, timedelta(0), TICK, timedelta(hours=1), TTL)]
    asked = [
        {"carrier": carrier, "flight": flight, "event_timestamp": moment}
        for moment in moments for carrier in ("AA", "UA", "ZZ", None) for flight in (1, 2**53 + 1, None)
    ]  # fmt: skip
    frame = pl.DataFrame(asked, schema_overrides={"event_timestamp": pl.Datetime("us", "UTC")})
    history = OnlineHistory(definitions, urls, tmp_path, frame)
    for row in asked:
        (found,) = history.find([row], [row["event_timestamp"]])
        expected = OnlineRow({"delay": None, "gate": None, "load": None})
        for names, rows, time, key in (
            (("delay", "gate"), delays, "event_timestamp", ("carrier", "flight")),
            (("load",), loads, "event_timestamp", ("carrier",)),
        ):
            known = newest(rows, time, row["event_timestamp"], **{name: row[name] for name in key})
            if known is None or None in [row[name] for name in key]:
                expected.missing += names
            elif row["event_timestamp"] - known[time] > TTL:
                expected.expired += names
            else:
                values = {name: known["weight"] if name == "load" else known[name] for name in names}
                expected.values |= values
                expected.missing += [name for name, value in values.items() if value is None]
        assert found == expected, row


def test_a_reader_tells_missing_from_expired_and_from_what_is_known_only_later(
    tmp_path: Path, definitions: Definitions
) -> None:
    delays = [
        {"carrier": "AA", "flight": 1, "event_timestamp": NOON, "made": NOON, "delay": None, "gate": "A"},
        {"carrier": "UA", "flight": 1, "event_timestamp": NOON - TTL, "made": NOON - TTL, "delay": 1.0, "gate": "B"},
    ]
    loads = [{"carrier": "AA", "event_timestamp": NOON, "weight": 3}]
    settings, rows = Settings(state=str(tmp_path), data=str(tmp_path)), feature_rows(tmp_path, delays, loads)
    assert materialize(settings, definitions, rows, NOON).keys == {"delays": 2, "loads": 1}
    store = Store(settings, project_of(definitions, rows))
    reader = store.online_reader()

    def asked(carrier: str | None, moment: datetime) -> OnlineRow:
        return reader.find([{"carrier": carrier, "flight": 1}], [moment])[0]

    assert asked("AA", NOON) == OnlineRow({"delay": None, "gate": "A", "load": 3}, ["delay"])
    nothing = {"delay": None, "gate": None, "load": None}
    assert asked("AA", NOON + TTL + TICK) == OnlineRow(nothing, [], ["delay", "gate", "load"])
    assert asked("AA", NOON - TICK) == OnlineRow(nothing, ["delay", "gate", "load"], [])
    assert asked("UA", NOON) == OnlineRow({**nothing, "delay": 1.0, "gate": "B"}, ["load"])
    assert asked("UA", NOON + TICK) == OnlineRow(nothing, ["load"], ["delay", "gate"])
    for unknown in ("ZZ", None):
        assert asked(unknown, NOON) == OnlineRow(nothing, ["delay", "gate", "load"])
    assert (reader.missing, reader.stale) == ({"delays": 7, "loads": 5}, {"delays": 4, "loads": 1})
