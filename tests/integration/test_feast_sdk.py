"""Feast's own SDK and commands with our offline store: as Feast defines them, and harmless to what is live."""

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import polars as pl
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64

from mlops_ray.errors import DataError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
DAY = timedelta(days=1)
MAY = datetime(2013, 5, 1, tzinfo=UTC)
LARGE = 2**53
ROOT = Path(__file__).parents[2]


def source(folder: Path, name: str, rows: pl.DataFrame, created: str | None = None) -> FileSource:
    rows.write_parquet(folder / f"{name}.parquet")
    return FileSource(
        name=name, path=str(folder / f"{name}.parquet"), timestamp_field="event_timestamp",
        created_timestamp_column=created,
    )  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    folder = tmp_path_factory.mktemp("feast")
    account = Entity(name="account", value_type=ValueType.INT64)
    small = Entity(name="small", value_type=ValueType.INT32)
    at = pl.Series("event_timestamp", [MAY, MAY], pl.Datetime("us", "UTC"))
    balances = FeatureView(
        name="balances", entities=[account], ttl=timedelta(0), schema=[Field(name="balance", dtype=Float64)],
        source=source(folder, "balances", pl.DataFrame([pl.Series("account", [LARGE, LARGE + 1]), at,
                                                        pl.Series("balance", [1.0, 2.0])])),
    )  # fmt: skip
    rates = FeatureView(
        name="rates", entities=[], ttl=DAY, schema=[Field(name="rate", dtype=Float64)],
        source=source(folder, "rates", pl.DataFrame([at, pl.Series("rate", [3.0, 4.0])]).head(1)),
    )  # fmt: skip
    smalls = FeatureView(
        name="smalls", entities=[small], ttl=30 * DAY, schema=[Field(name="count", dtype=Int64)],
        source=source(folder, "smalls", pl.DataFrame([pl.Series("small", [7, 8], pl.Int32), at,
                                                      pl.Series("count", [70, 80])])),
    )  # fmt: skip
    written = pl.DataFrame(
        [pl.Series("account", [1, 1]), at, pl.Series("created", [MAY, MAY + 8 * DAY], pl.Datetime("us", "UTC")),
         pl.Series("score", [5.0, 7.0])]
    )  # fmt: skip
    scores = FeatureView(
        name="scores", entities=[account], ttl=30 * DAY, schema=[Field(name="score", dtype=Float64)],
        source=source(folder, "scores", written, "created"),
    )  # fmt: skip

    @on_demand_feature_view(sources=[balances], schema=[Field(name="doubled", dtype=Float64)], mode="pandas")
    def twice(inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"doubled": inputs["balance"] * 2})

    config = RepoConfig(
        project="workbench", provider="local", entity_key_serialization_version=3,
        registry={"registry_type": "sql", "path": f"sqlite:///{folder}/registry.db"},
        offline_store={"type": "mlops_ray.features.offline_store.AsOfOfflineStore"},
        online_store={"type": "sqlite", "path": f"{folder}/online.db"},
    )  # fmt: skip
    store = FeatureStore(config=config)
    store.apply([account, small, balances, rates, smalls, scores, twice])
    return store


def asked(store: FeatureStore, features: list[str], entities: dict[str, object], **options: bool) -> list[object]:
    frame = pd.DataFrame(entities)
    found = store.get_historical_features(entity_df=frame, features=features, **options).to_df()
    return [None if pd.isna(value) else value for value in found[features[-1].split(":")[1]]]


def test_large_keys_beside_nulls_are_exact_in_what_pandas_can_hold(store: FeatureStore) -> None:
    moments = [MAY + DAY] * 3
    for accounts in (
        pd.array([LARGE, None, LARGE + 1], dtype="Int64"),
        pd.Series([LARGE, None, LARGE + 1], dtype=object),
    ):
        assert asked(store, ["balances:balance"], {"account": accounts, "event_timestamp": moments}) == [1.0, None, 2.0]
    floats = pd.Series([float(LARGE), None, float(LARGE)])
    with pytest.raises(DataError, match="floats that name no integer exactly"):
        asked(store, ["balances:balance"], {"account": floats, "event_timestamp": moments})
    few = pd.Series([1.0, None, 2.0])
    assert asked(store, ["scores:score"], {"account": few, "event_timestamp": [MAY + 9 * DAY] * 3}) == [7.0, None, None]


def test_a_ttl_of_0_is_for_ever_and_a_view_without_entities_holds_for_all(store: FeatureStore) -> None:
    entities = {"account": [LARGE], "event_timestamp": [MAY + 900 * DAY]}
    assert asked(store, ["balances:balance"], entities) == [1.0]
    rates = {"account": [1, 2, 3], "event_timestamp": [MAY - DAY, MAY + DAY / 2, MAY + 2 * DAY]}
    assert asked(store, ["rates:rate"], rates) == [None, 3.0, None]


def test_an_on_demand_view_is_computed(store: FeatureStore) -> None:
    entities = {"account": [LARGE, LARGE + 1], "event_timestamp": [MAY + DAY] * 2}
    assert asked(store, ["balances:balance", "twice:doubled"], entities) == [2.0, 4.0]


def test_keys_of_32_bits_and_moments_as_texts_are_taken(store: FeatureStore) -> None:
    entities = {"small": [7, 9], "event_timestamp": ["2013-05-02", "2013-05-02"]}
    assert asked(store, ["smalls:count"], entities) == [70, None]
    narrow = {"small": pd.Series([8, 7], dtype="int32"), "event_timestamp": ["2013-05-02T00:00:00Z"] * 2}
    assert asked(store, ["smalls:count"], narrow) == [80, 70]


def test_rows_that_were_created_later_count_where_feast_says_so(store: FeatureStore) -> None:
    entities = {"account": [1, 1], "event_timestamp": [MAY + 2 * DAY, MAY + 9 * DAY]}
    assert asked(store, ["scores:score"], entities) == [7.0, 7.0]
    assert asked(store, ["scores:score"], entities, filter_by_created_timestamp=True) == [5.0, 7.0]


@pytest.mark.timeout(200)
def test_feast_apply_in_the_repository_changes_no_project_but_its_own(store: FeatureStore, tmp_path: Path) -> None:
    """The file of the repository names a project of its own, so that nothing that versions read is changed."""
    repository = ROOT / "feature_repo"
    environment = os.environ | {
        "MLOPS_RAY_FEAST_REGISTRY": f"sqlite:///{tmp_path}/registry.db",
        "MLOPS_RAY_ONLINE_STORE": f"{tmp_path}/online.db",
    }
    command = [str(Path(sys.executable).with_name("feast")), "-c", str(repository), "apply"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    config = RepoConfig(
        project="workbench",
        provider="local",
        registry={"registry_type": "sql", "path": f"sqlite:///{tmp_path}/registry.db"},
    )
    assert [project.name for project in FeatureStore(config=config).list_projects()] == ["workbench"]
