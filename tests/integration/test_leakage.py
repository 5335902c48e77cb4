"""What was not known at a moment cannot reach the training set, and digests name content, not files."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
import ray

from mlops_ray.artifacts import digest_rows, read_parquet
from mlops_ray.config import load_settings
from mlops_ray.errors import UseCaseError
from mlops_ray.exploration.explore import explore_snapshot, explore_source, explore_training_set
from mlops_ray.exploration.profile import ColumnProfile
from mlops_ray.features.columns import PREDICTION_TIME
from mlops_ray.pipeline.pipeline import Pipeline
from mlops_ray.use_case import Tables, UseCase, load_use_case
from tests.pipeline_run import ROOT, SMALL, SMALL_AS_OF, write_small_data

PLANTED = datetime.fromisoformat("2013-01-20T05:00:00Z")


@pytest.fixture(scope="module", autouse=True)
def own_ray() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, object_store_memory=500_000_000, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def case() -> UseCase:
    return load_use_case(str(SMALL))


def run(case: UseCase, folder: Path, data: Path, until: str) -> dict[str, object]:
    settings = load_settings(state=str(folder / "state"), data=str(data))
    pipeline = Pipeline(case, settings, ROOT / "feature_repo", datetime.fromisoformat(SMALL_AS_OF))
    return dict(pipeline.run(until)[until].result)  # type: ignore[arg-type, index]


@pytest.fixture(scope="module")
def clean(case: UseCase, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    folder = tmp_path_factory.mktemp("clean")
    write_small_data(folder / "data")
    return folder / "data", run(case, folder, folder / "data", "training_set")


def rows(result: dict[str, object], before: bool) -> pl.DataFrame:
    frame = read_parquet(str(result["url"]))
    known = pl.col(PREDICTION_TIME) < PLANTED
    return frame.filter(known if before else ~known)


@pytest.mark.timeout(240)
def test_a_planted_future_value_reaches_no_earlier_row(
    case: UseCase, clean: tuple[Path, dict[str, object]], tmp_path: Path
) -> None:
    data, before = clean
    for file in data.iterdir():
        frame = pl.read_csv(file, infer_schema=False)
        late = pl.lit(PLANTED) <= pl.col("time_hour").str.to_datetime("%+") if "time_hour" in frame.columns else None
        if file.name.startswith("weather"):
            frame = frame.with_columns(pl.when(late).then(pl.lit("99")).otherwise("temp").alias("temp"))
        if file.name.startswith("flights"):
            delay = pl.when(late & (pl.col("arr_delay") != "NA")).then(pl.lit("999")).otherwise("arr_delay")
            frame = frame.with_columns(delay.alias("arr_delay"))
        (tmp_path / "data").mkdir(exist_ok=True)
        frame.write_csv(tmp_path / "data" / file.name)
    # What is planted goes with the labels so well that it is taken for leakage.
    waivers = {feature["name"]: "planted" for feature in clean[1]["features"]}  # type: ignore[attr-defined]
    after = run(replace(case, leakage_waivers=waivers), tmp_path, tmp_path / "data", "training_set")
    assert digest_rows(rows(after, before=True)) == digest_rows(rows(before, before=True))
    assert rows(after, before=True).height > 10_000
    assert rows(after, before=False)["temp"].mean() > 90
    assert rows(before, before=False)["temp"].mean() < 60


@pytest.mark.timeout(120)
def test_the_same_rows_in_other_files_give_the_same_snapshot(
    case: UseCase, clean: tuple[Path, dict[str, object]], tmp_path: Path
) -> None:
    data, result = clean
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("weather", "planes"):
        for file in data.glob(f"{name}*"):
            (folder / file.name).write_bytes(file.read_bytes())
    flights = pl.concat([pl.read_csv(file, infer_schema=False) for file in data.glob("flights*")])
    shuffled = flights.sample(fraction=1, shuffle=True, seed=1)
    shuffled.head(20_000).write_csv(folder / "flights_a.csv")
    shuffled.tail(-20_000).write_parquet(folder / "flights_b.parquet")
    source = case.sources["flights"]
    other = replace(case, sources={**case.sources, "flights": replace(source, path="flights_*")})
    assert run(other, tmp_path, folder, "ingest")["digest"] == result["snapshot"]


@pytest.mark.timeout(120)
def test_a_file_delivered_twice_changes_no_accepted_row(
    case: UseCase, clean: tuple[Path, dict[str, object]], tmp_path: Path
) -> None:
    data, _ = clean
    folder = tmp_path / "data"
    folder.mkdir()
    for file in data.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    once = run(case, tmp_path / "once", folder, "ingest")
    (folder / "flights_again.csv").write_bytes((data / "flights_2013-01.csv").read_bytes())
    twice = run(case, tmp_path / "twice", folder, "ingest")
    assert twice["content"]["flights"]["accepted"] == once["content"]["flights"]["accepted"]  # type: ignore[index]
    counts = twice["counts"]["flights"]  # type: ignore[index]
    assert counts["reasons"]["duplicate_key"] == 27_004
    outcomes = ("accepted", "repaired", "quarantined", "not_yet_known")
    assert counts["rows_in"] == sum(counts[outcome] for outcome in outcomes)


@pytest.mark.timeout(120)
def test_a_leak_ends_the_pipeline_before_training_unless_it_is_waived_by_name(
    case: UseCase, clean: tuple[Path, dict[str, object]], tmp_path: Path
) -> None:
    data, before = clean
    honest = case.feature_views["weather"]

    def weather_an_hour_early(tables: Tables) -> pl.DataFrame:
        return honest(tables).with_columns(pl.col("event_timestamp") - timedelta(hours=1))

    flights = case.sources["flights"]
    columns = tuple(replace(column, outcome=False) for column in flights.columns)
    leaking = replace(
        case,
        sources={**case.sources, "flights": replace(flights, columns=columns)},
        request_features={**case.features_of_request(), "air_time": pl.col("air_time")},
        feature_views={**case.feature_views, "weather": weather_an_hour_early},
    )
    with pytest.raises(UseCaseError, match=r"Leakage suspected in 2 .* air_time: .* weather: ") as raised:
        run(leaking, tmp_path, data, "train")
    assert "leakage_waivers={'air_time': 'why', 'weather': 'why'}" in str(raised.value)
    waivers = {"air_time": "planned, not flown", "weather": "a forecast of an hour"}
    waived = run(replace(leaking, leakage_waivers=waivers), tmp_path, data, "training_set")
    assert waived["rows"] == before["rows"]


def assert_agree(one: ColumnProfile, other: ColumnProfile) -> None:
    """Counts that are exact are equal; those that have a bound may be the same count."""
    if one.top_exact:
        assert one.top == other.top
    counts = dict(other.top)
    for value in counts.keys() & dict(one.top).keys():
        rows = dict(one.top)[value]
        assert rows <= counts[value] + other.top_error
        assert counts[value] <= rows + one.top_error


@pytest.mark.timeout(120)
def test_what_many_tasks_profile_is_what_one_does(
    case: UseCase, clean: tuple[Path, dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, _ = clean
    settings = load_settings(state=str(data.parent / "state"), data=str(data))
    here, snapshot = (explore(case, settings) for explore in (explore_source, explore_snapshot))
    monkeypatch.setattr("mlops_ray.exploration.scan.HERE_BYTES", 0)
    there = explore_source(case, settings)
    counted = ("name", "kinds", "missing", "different", "minimum", "maximum", "top_exact")
    rows = [[[getattr(one, name) for name in counted] for one in found.profile.columns] for found in (here, there)]
    assert rows[0] == rows[1]
    assert "time_hour" in {one.name for one in here.profile.columns if not one.top_exact}
    for one, other in zip(here.profile.columns, there.profile.columns, strict=True):
        assert_agree(one, other)
    assert here.profile.rows == there.profile.rows > 30_000
    assert not [one for one in snapshot.suspicions if one.kind == "leakage"]  # outcomes are declared
    trained = explore_training_set(case, settings)
    assert not [one for one in trained.suspicions if one.kind == "leakage"]
    assert trained.relations[0].roc_auc is not None
    assert 0.55 < trained.relations[0].roc_auc < 0.8
