"""What knows the outcome is named before anything is trained, and what is honest is not."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mlops_ray.errors import UseCaseError
from mlops_ray.exploration.early_views import early_views
from mlops_ray.exploration.leakage import expect_no_leak, suspected_leaks
from mlops_ray.exploration.profile import profile_of
from mlops_ray.exploration.raw_sample import accepted_rows
from mlops_ray.exploration.relation import relations
from mlops_ray.exploration.suspicion import Suspicion
from mlops_ray.exploration.table_sketch import TableSketch
from mlops_ray.features.labelled import labelled_rows
from mlops_ray.ingestion.sources import find_files
from mlops_ray.use_case import Column, Feature, Tables, UseCase, load_use_case

ROOT = Path(__file__).parents[2]
END = datetime(2013, 3, 1, tzinfo=UTC)
LEAKS = ("dep_delay", "arr_time", "air_time")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import sys

    sys.path.insert(0, str(ROOT / "use_cases"))
    from flights_raw_data import write_raw_data

    folder = tmp_path_factory.mktemp("flights")
    write_raw_data(folder)
    for month in range(2, 13):
        for name in ("flights", "weather"):
            (folder / f"{name}_2013-{month:02}.csv").unlink()
    return folder


@pytest.fixture(scope="module")
def honest() -> UseCase:
    return load_use_case(str(ROOT / "use_cases" / "flights.py"))


def tables(case: UseCase, data: Path) -> dict[str, pl.DataFrame]:
    return {
        name: accepted_rows(find_files(str(data), name, source), source, 1_000_000)
        for name, source in case.sources.items()
    }


@pytest.fixture(scope="module")
def honest_tables(honest: UseCase, data: Path) -> dict[str, pl.DataFrame]:
    return tables(honest, data)


def leaking(honest: UseCase, name: str) -> UseCase:
    """Flights as somebody declares them who does not say which columns are outcomes, and sends one of these."""
    flights = honest.sources["flights"]
    columns = [replace(column, outcome=False) for column in flights.columns]
    columns += [Column(name, "integer", nullable=True)] if flights.column(name) is None else []
    sources = {**honest.sources, "flights": replace(flights, columns=tuple(columns))}
    features = {**honest.features_of_request(), name: pl.col(name)}
    return replace(honest, sources=sources, request_features=features)


def suspected(case: UseCase, given: Tables) -> list[Suspicion]:
    rows = labelled_rows(case, given["flights"], END)
    features = [
        Feature(name, "category" if rows.schema[name] == pl.String else "number") for name in case.features_of_request()
    ]
    return suspected_leaks(case, given, rows, features)


def test_on_the_honest_flights_nothing_is_suspected(honest: UseCase, honest_tables: Tables) -> None:
    assert suspected(honest, honest_tables) == []


@pytest.mark.parametrize("name", LEAKS)
def test_an_outcome_as_request_feature_is_named(honest: UseCase, data: Path, name: str) -> None:
    case = leaking(honest, name)
    found = suspected(case, tables(case, data))
    assert [one.column for one in found] == [name]
    known = [*case.features_of_request(), *case.feature_views]
    with pytest.raises(UseCaseError, match=rf"{name}: .*leakage_waivers=\{{'{name}': 'why'\}}"):
        expect_no_leak(found, {}, known)
    expect_no_leak(found, {name: "the airline tells it two hours before"}, known)


def early(function: Callable[[Tables], pl.DataFrame], length: timedelta) -> Callable[[Tables], pl.DataFrame]:
    return lambda tables: function(tables).with_columns(pl.col("event_timestamp") - length)


@pytest.mark.parametrize("name", ["weather", "origin_3h", "flight_number_7d"])
@pytest.mark.parametrize("minutes", [60, 5])
def test_a_view_that_is_stamped_too_early_is_named(
    honest: UseCase, honest_tables: Tables, name: str, minutes: int
) -> None:
    shifted = early(honest.feature_views[name], timedelta(minutes=minutes))
    case = replace(honest, feature_views={**honest.feature_views, name: shifted})
    assert [one.column for one in early_views(case, honest_tables)] == [name]


def test_a_view_whose_function_fails_on_a_part_is_passed_over(honest: UseCase, honest_tables: Tables) -> None:
    def fails(tables: Tables) -> pl.DataFrame:
        raise ValueError("not on so few rows")

    case = replace(honest, feature_views={**honest.feature_views, "weather": fails})
    assert early_views(case, honest_tables) == []


def test_a_waiver_of_what_is_not_there_is_refused() -> None:
    with pytest.raises(UseCaseError, match="Did you mean 'dep_delay'"):
        expect_no_leak([], {"dep_dela": "why"}, ["dep_delay"])


def related(frame: pl.DataFrame) -> dict[str, tuple[float, float]]:
    profiles = []
    for flag in (True, False):
        table = TableSketch()
        table.update(frame.filter(pl.col("label") == flag))
        profiles.append(profile_of("x", table))
    found = relations(*profiles)
    return {one.column: (one.roc_auc or 0, one.missing_roc_auc or 0) for one in found}


def test_the_relation_of_a_column_is_its_roc_auc() -> None:
    from sklearn.metrics import roc_auc_score

    random = np.random.default_rng(5)
    label = random.random(40_000) < 0.3
    number = random.normal(label * 0.8, 1)
    place = np.where(label, random.choice(4, 40_000, p=[0.1, 0.2, 0.3, 0.4]), random.choice(4, 40_000))
    frame = pl.DataFrame(
        {
            "label": label,
            "number": number,
            "place": pl.Series(place).cast(pl.String),
            "gone": pl.Series(random.random(40_000)).set(pl.Series(label & (random.random(40_000) < 0.8)), None),
            "noise": random.random(40_000),
        }
    )
    found = related(frame)
    rates = frame.group_by("place").agg(pl.col("label").mean())
    ranked = frame.join(rates, on="place", maintain_order="left")["label_right"]
    assert found["number"][0] == pytest.approx(roc_auc_score(label, number), abs=0.01)
    assert found["place"][0] == pytest.approx(roc_auc_score(label, ranked), abs=0.01)
    assert found["gone"][1] == pytest.approx(0.9, abs=0.01)
    assert found["gone"][0] > 0.89
    assert found["noise"][0] < 0.52
