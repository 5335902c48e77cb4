"""Feast's own SDK and commands with our offline store: as Feast defines them, and harmless to what is live."""

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pytest
import ray
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.infra.offline_stores.file_source import SavedDatasetFileStorage
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64
from feast.ui_server import get_app
from starlette.testclient import TestClient

from mlops_ray.config import load_settings
from mlops_ray.errors import DataError
from mlops_ray.features import slices
from mlops_ray.features.declared_views import declared_views
from mlops_ray.features.definitions import read_definitions
from mlops_ray.features.store import Store
from mlops_ray.use_case import load_use_case

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


def test_feast_s_own_page_shows_the_projects_that_versions_read(tmp_path: Path) -> None:
    """`feast ui` in the repository, on the registry that the store writes: asked as the page asks it."""
    settings = load_settings(state=str(tmp_path), data=str(tmp_path))
    case = load_use_case(str(ROOT / "use_cases" / "flights.py"))
    definitions = read_definitions(ROOT / "feature_repo", "flights", declared=declared_views(case))
    assert definitions is not None
    names = [view.name for view in definitions.views]
    Store(settings, "flights_0123").apply(definitions, {name: str(tmp_path / f"{name}.parquet") for name in names}, MAY)
    config = RepoConfig(
        project="workbench", provider="local", registry={"registry_type": "sql", "path": settings.feast_registry}
    )
    with TestClient(get_app(FeatureStore(config=config), "workbench", 60)) as page:
        assert page.get("/").headers["content-type"].startswith("text/html")
        assert "flights_0123" in [project["id"] for project in page.get("/projects-list.json").json()["projects"]]
        asked = {"project": "flights_0123"}
        views = page.get("/api/v1/feature_views", params=asked).json()["featureViews"]
        assert sorted(view["spec"]["name"] for view in views) == sorted(names)
        services = page.get("/api/v1/feature_services", params=asked).json()["featureServices"]
        assert [service["spec"]["name"] for service in services] == ["flights"]


QUICKSTART = """
from datetime import timedelta

import pandas as pd
from feast import Entity, FeatureService, FeatureView, Field, FileSource, PushSource, RequestSource, ValueType
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float32, Float64, Int64

driver = Entity(name="driver", join_keys=["driver_id"], value_type=ValueType.INT64)
driver_stats_source = FileSource(
    name="driver_hourly_stats_source",
    path="data/driver_stats.parquet",
    timestamp_field="event_timestamp",
    created_timestamp_column="created",
)
driver_stats_fv = FeatureView(
    name="driver_hourly_stats",
    entities=[driver],
    ttl=timedelta(days=1),
    schema=[
        Field(name="conv_rate", dtype=Float32),
        Field(name="acc_rate", dtype=Float32),
        Field(name="avg_daily_trips", dtype=Int64),
    ],
    online=True,
    source=driver_stats_source,
    tags={"team": "driver_performance"},
)
input_request = RequestSource(name="vals_to_add", schema=[Field(name="val_to_add", dtype=Int64)])


@on_demand_feature_view(
    sources=[driver_stats_fv, input_request], schema=[Field(name="conv_rate_plus_val1", dtype=Float64)]
)
def transformed_conv_rate(inputs: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"conv_rate_plus_val1": inputs["conv_rate"] + inputs["val_to_add"]})


driver_activity = FeatureService(name="driver_activity", features=[driver_stats_fv, transformed_conv_rate])
"""
FEATURE_STORE = """project: drivers
registry: data/registry.db
provider: local
online_store:
    type: sqlite
    path: data/online_store.db
entity_key_serialization_version: 3
"""
ONE_LINE = "offline_store: {type: mlops_ray.features.offline_store.AsOfOfflineStore}\n"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project as Feast's own quickstart has it, on Feast's default stores."""
    folder = tmp_path_factory.mktemp("quickstart")
    (folder / "data").mkdir()
    (folder / "feature_store.yaml").write_text(FEATURE_STORE)
    (folder / "feature_definitions.py").write_text(QUICKSTART)
    hours = [MAY + timedelta(hours=n) for n in range(15 * 24)]
    rows = pl.DataFrame(
        {
            "event_timestamp": hours * 5,
            "driver_id": [1001 + driver for driver in range(5) for _ in hours],
            "conv_rate": pl.Series([n * 7 % 100 / 100 for n in range(5 * len(hours))], dtype=pl.Float32),
            "acc_rate": pl.Series([n * 11 % 100 / 100 for n in range(5 * len(hours))], dtype=pl.Float32),
            "avg_daily_trips": [n * 13 % 1000 for n in range(5 * len(hours))],
            "created": [MAY + 20 * DAY] * (5 * len(hours)),
        },
        schema_overrides={"event_timestamp": pl.Datetime("us", "UTC"), "created": pl.Datetime("us", "UTC")},
    )
    again = rows.head(10).with_columns(created=pl.col("created") + DAY, conv_rate=pl.lit(0.5, pl.Float32))
    pl.concat([rows, again]).write_parquet(folder / "data" / "driver_stats.parquet")
    done = subprocess.run(
        [str(Path(sys.executable).with_name("feast")), "apply"], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder


def answers(repository: Path, one_line: str) -> tuple[pd.DataFrame, dict[str, list[object]]]:
    """What the quickstart's calls give: historical features of a service, and online values after materialization."""
    online = FEATURE_STORE.replace("online_store.db", f"online_store_{len(one_line)}.db")  # empty at first
    (repository / "feature_store.yaml").write_text(online + one_line)
    store = FeatureStore(repo_path=str(repository))
    store.apply([*store.list_entities(), *store.list_feature_views()])
    entities = pd.DataFrame(
        {
            "driver_id": [1001, 1002, 1003, 1001, 1009],
            "event_timestamp": [MAY + n * DAY / 2 for n in (0, 3, 10, 60, 3)],
            "val_to_add": [1, 2, 3, 4, 5],
        }
    )
    found = store.get_historical_features(entity_df=entities, features=store.get_feature_service("driver_activity"))
    frame = found.to_df().sort_values(["driver_id", "event_timestamp"], ignore_index=True)
    store.materialize(MAY, MAY + 15 * DAY)
    values = store.get_online_features(
        features=["driver_hourly_stats:conv_rate", "driver_hourly_stats:avg_daily_trips"],
        entity_rows=[{"driver_id": 1001}, {"driver_id": 1005}],
    )
    return frame[sorted(frame.columns)], values.to_dict()


@pytest.mark.timeout(200)
def test_a_project_of_feast_s_quickstart_switches_to_this_store_by_one_line(repository: Path) -> None:
    """The same answers; but Feast's own store leaves out a row whose only value has expired, which here is kept."""
    before, online_before = answers(repository, "")
    after, online_after = answers(repository, ONE_LINE)
    assert list(after.columns) == list(before.columns)
    assert len(after) == 5
    assert after["conv_rate_plus_val1"].notna().sum() == 3
    both = after.merge(before, on=["driver_id", "event_timestamp"], suffixes=("", "_before"))
    assert len(both) == len(before)
    for name in ("conv_rate", "acc_rate", "avg_daily_trips", "conv_rate_plus_val1"):
        pd.testing.assert_series_equal(both[name], both[f"{name}_before"], check_names=False, check_dtype=False)
    assert online_after == online_before


def balances(store: FeatureStore, entities: object, **options: object) -> Any:
    return store.get_historical_features(entity_df=entities, features=["balances:balance"], **options)


def test_entity_rows_in_polars_arrow_and_sql_are_those_of_pandas(store: FeatureStore, tmp_path: Path) -> None:
    rows = pl.DataFrame({"account": [LARGE + 1, None, LARGE], "event_timestamp": [MAY + DAY] * 3})
    rows.write_parquet(tmp_path / "asked.parquet")
    sql = f"SELECT * FROM read_parquet('{tmp_path}/asked.parquet') ORDER BY account DESC NULLS LAST"
    by_name = "SELECT account, event_timestamp + INTERVAL 1 DAY AS event_timestamp FROM balances ORDER BY account DESC"
    for given in (rows, rows.to_arrow()):
        assert balances(store, given).to_polars()["balance"].to_list() == [2.0, None, 1.0]
    assert balances(store, sql).to_polars()["balance"].to_list() == [2.0, 1.0, None]
    assert balances(store, by_name).to_polars()["balance"].to_list() == [2.0, 1.0]
    with pytest.raises(DataError, match=r"The query for entity rows fails: .*nowhere"):
        balances(store, "SELECT * FROM nowhere")


def test_without_entity_rows_every_key_is_asked_about_as_of_the_end(store: FeatureStore) -> None:
    found = balances(store, None, start_date=MAY - DAY, end_date=MAY + DAY).to_polars()
    assert found.select("account", "balance").sort("account").rows() == [(LARGE, 1.0), (LARGE + 1, 2.0)]
    assert found["event_timestamp"].to_list() == [MAY + DAY] * 2
    assert balances(store, None, start_date=MAY + DAY, end_date=MAY + 2 * DAY).to_polars().is_empty()
    with pytest.raises(DataError, match="'balances' and 'smalls' have different entities"):
        store.get_historical_features(features=["balances:balance", "smalls:count"], end_date=MAY + DAY)


def test_entity_rows_that_cannot_be_asked_about_are_named(store: FeatureStore) -> None:
    moments = [MAY + DAY] * 2
    with pytest.raises(DataError, match=r"no column 'account', by which feature view 'balances' is looked up"):
        balances(store, pd.DataFrame({"event_timestamp": moments, "konto": [1, 2]}))
    with pytest.raises(DataError, match="hold what is no moment"):
        balances(store, pd.DataFrame({"event_timestamp": ["soon", "later"], "account": [1, 2]}))
    with pytest.raises(DataError, match="column 'account' has values of several types"):
        balances(store, pd.DataFrame({"event_timestamp": moments, "account": [1, "two"]}))
    with pytest.raises(DataError, match="Entity column 'account' is String, and in the feature view's rows Int64"):
        balances(store, pd.DataFrame({"event_timestamp": moments, "account": ["1", "2"]}))
    with pytest.raises(DataError, match="Feature 'balance' has the name of a column that the rows have already"):
        balances(store, pd.DataFrame({"event_timestamp": moments, "account": [1, 2], "balance": [0, 0]})).to_df()


def test_no_entity_row_is_lost_or_merged(store: FeatureStore) -> None:
    """Doubles, unknown and null keys, no moment, a moment before any feature, and moments in other zones or none."""
    keys = pd.array([LARGE, LARGE, 3, None, LARGE, LARGE], dtype="Int64")
    moments = [MAY + DAY, MAY + DAY, MAY + DAY, MAY + DAY, None, MAY - DAY]
    given = pd.DataFrame({"account": keys, "event_timestamp": moments, "n": range(6)})
    found = balances(store, given).to_polars()
    assert found.select("n", "balance").rows() == [(0, 1.0), (1, 1.0), (2, None), (3, None), (4, None), (5, None)]
    naive = pd.DataFrame({"account": [LARGE] * 2, "event_timestamp": pd.to_datetime(["2013-05-01", "2013-04-30"])})
    assert balances(store, naive).to_polars()["balance"].to_list() == [1.0, None]
    east = pd.to_datetime(["2013-05-01T02:00:00+02:00", "2013-05-01T01:59:59+02:00"])
    assert balances(store, naive.assign(event_timestamp=east)).to_polars()["balance"].to_list() == [1.0, None]
    assert balances(store, naive.head(0)).to_df().empty


def test_an_alias_asks_by_another_key_and_full_names_tell_the_views_apart(store: FeatureStore) -> None:
    payer = store.get_feature_view("balances").with_name("payer").with_join_key_map({"account": "from_account"})
    payee = store.get_feature_view("balances").with_name("payee")
    service = FeatureService(name="both", features=[payee, payer])
    store.apply([service])
    given = pd.DataFrame({"account": [LARGE], "from_account": [LARGE + 1], "event_timestamp": [MAY + DAY]})
    found = store.get_historical_features(entity_df=given, features=service, full_feature_names=True).to_polars()
    assert found.select("payee__balance", "payer__balance").rows() == [(1.0, 2.0)]


def test_a_field_has_another_name_in_the_files(tmp_path: Path) -> None:
    at = pl.Series("at", [MAY, MAY + DAY], pl.Datetime("ns"))  # and its moments no zone, and nanoseconds
    pl.DataFrame([pl.Series("k", [1, 1], pl.Int32), at, pl.Series("v", [1.0, 2.0])]).write_parquet(
        tmp_path / "v.parquet"
    )
    account = Entity(name="account", value_type=ValueType.INT64)
    view = FeatureView(
        name="mapped", entities=[account], ttl=DAY, schema=[Field(name="value", dtype=Float64)],
        source=FileSource(name="mapped", path="v.parquet", timestamp_field="at",
                          field_mapping={"k": "account", "v": "value"}),
    )  # fmt: skip
    (tmp_path / "feature_store.yaml").write_text(FEATURE_STORE.replace("data/", "") + ONE_LINE)
    mapped = FeatureStore(repo_path=str(tmp_path))
    mapped.apply([account, view])
    given = pd.DataFrame({"account": [1, 1, 1], "event_timestamp": [MAY, MAY + 2 * DAY, MAY + 3 * DAY]})
    found = mapped.get_historical_features(entity_df=given, features=["mapped:value"])
    assert [None if pd.isna(value) else value for value in found.to_df()["value"]] == [1.0, 2.0, None]
    mapped.materialize(MAY - DAY, MAY + DAY / 2)
    asked_online = mapped.get_online_features(features=["mapped:value"], entity_rows=[{"account": 1}])
    assert asked_online.to_dict()["value"] == [1.0]


def test_a_result_is_persisted_once_and_read_again(store: FeatureStore, tmp_path: Path) -> None:
    for name in ("saved.parquet", "saved"):
        given = pd.DataFrame({"account": [LARGE, LARGE + 1], "event_timestamp": [MAY + DAY, MAY + 2 * DAY]})
        storage = SavedDatasetFileStorage(path=str(tmp_path / name))
        saved = store.create_saved_dataset(balances(store, given), name.replace(".", "_"), storage)
        assert saved.to_df()["balance"].to_list() == [1.0, 2.0]
        with pytest.raises(SavedDatasetLocationAlreadyExists):
            balances(store, given).persist(storage)
        balances(store, given.head(1)).persist(storage, allow_overwrite=True)
        assert saved.to_df()["balance"].to_list() == [1.0]


@pytest.mark.timeout(120)
def test_a_ray_dataset_has_the_rows_of_the_table_and_what_is_computed_on_demand(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In slices, where they are many: nothing of them comes past the driver."""
    ray.init(address="local", num_cpus=2, object_store_memory=200_000_000, include_dashboard=False, log_to_driver=False)
    try:
        monkeypatch.setattr(slices, "SLICE_ROWS", 20)
        monkeypatch.setattr(slices, "HERE_BYTES", 1)
        given = pd.DataFrame({"account": [LARGE, LARGE + 1, 5] * 30, "n": range(90),
                              "event_timestamp": [MAY + (n * 7 % 90) * DAY / 45 - DAY for n in range(90)]})  # fmt: skip
        job = store.get_historical_features(entity_df=given, features=["balances:balance", "twice:doubled"])
        dataset = job.to_ray_dataset()
        assert dataset.num_blocks() > 3
        expected = job.to_polars()
        assert expected["n"].to_list() == list(range(90))
        assert pl.from_pandas(dataset.to_pandas()).sort("n").equals(expected)
        assert 0 < expected["doubled"].null_count() < 90
    finally:
        ray.shutdown()
