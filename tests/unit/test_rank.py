"""Data sets are ranked with reasons; what makes a model worse is found; the choice is recorded."""

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.errors import ConfigurationError
from mlops_ray.exploration.rank import Ranking, choice_of, choose, rank
from mlops_ray.use_case import UseCase, load_use_case

ROOT = Path(__file__).parents[2]
CANDIDATES = {"missing": "flights_missing.csv", "other": "flights_other.csv", "small": "flights_small.csv"}


@pytest.fixture(scope="module")
def case() -> UseCase:
    return load_use_case(str(ROOT / "use_cases" / "flights.py"))


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Three months of flights: one with 30 % missing, one of another distribution, one clean but small; and April."""
    import sys

    sys.path.insert(0, str(ROOT / "use_cases"))
    from flights_raw_data import write_raw_data

    folder = tmp_path_factory.mktemp("ranked")
    write_raw_data(folder)
    january, february, march = (
        pl.read_csv(folder / f"flights_2013-{month:02}.csv", infer_schema=False) for month in (1, 2, 3)
    )
    gone = pl.int_range(pl.len()).hash(1) % 10 < 3
    january.with_columns(
        pl.when(~(pl.int_range(pl.len()).hash(number) % 10 < 3)).then(pl.col(name)).otherwise(pl.lit("")).alias(name)
        for number, name in enumerate(("dep_delay", "arr_delay", "air_time", "tailnum"))
    ).write_csv(folder / "flights_missing.csv")
    # Of another company: longer flights with other numbers, and delays turned round.
    number = {name: pl.col(name).cast(pl.Int64, strict=False) for name in ("arr_delay", "air_time", "flight")}
    february.with_columns(
        (30 - number["arr_delay"]).clip(-180, 2880).cast(pl.String).fill_null("NA").alias("arr_delay"),
        (number["air_time"] + 400).cast(pl.String).fill_null("NA").alias("air_time"),
        (number["flight"].clip(1, 2000) + 7000).cast(pl.String).alias("flight"),
    ).write_csv(folder / "flights_other.csv")
    march.filter(gone & (pl.int_range(pl.len()) % 3 == 0)).write_csv(folder / "flights_small.csv")
    return Settings(state=str(folder / "state"), data=str(folder))


@pytest.fixture(scope="module")
def ranking(case: UseCase, settings: Settings) -> Ranking:
    return rank(case, settings, CANDIDATES, reference="flights_2013-04.csv")


def test_the_order_is_that_of_fitness_with_reasons_in_words(ranking: Ranking) -> None:
    assert [one.name for one in ranking.candidates] == ["small", "missing", "other"]
    said = ranking.sentences()
    assert "(few)" in said[0]
    assert "% complete" in said[1]
    assert "away in" in said[2]
    assert "flights: 3 data sets" in ranking.page()


def test_a_source_that_makes_the_model_worse_is_found_by_leaving_it_out(case: UseCase, settings: Settings) -> None:
    found = rank(case, settings, CANDIDATES, reference="flights_2013-04.csv", model=True)
    assert found.harmful == ("other",)
    assert found.candidates[-1].name == "other"
    assert any(sentence.startswith("Leave out other: without it") for sentence in found.sentences())
    with pytest.raises(ConfigurationError, match="--reference"):
        rank(case, settings, CANDIDATES, model=True)


def test_the_choice_and_its_reason_are_for_lineage(ranking: Ranking, tmp_path: Path) -> None:
    artifacts = Artifacts(str(tmp_path))
    with pytest.raises(ConfigurationError, match="Did you mean 'small'"):
        choose(artifacts, ranking, ["smal"], "clean")
    digest = choose(artifacts, ranking, ["small"], "clean, and enough")
    files = next(dict(one.files) for one in ranking.candidates if one.name == "small")
    said = choice_of(artifacts, "flights", files)
    assert said == {"data choice": "small of 3: clean, and enough", "data choice record": digest}
    assert choice_of(artifacts, "flights", {"flights_other.csv": "0" * 64}) == {}
    assert choice_of(artifacts, "another", files) == {}


def test_equal_data_sets_are_ranked_by_age(case: UseCase, settings: Settings) -> None:
    months = {"old": "flights_2013-01.csv", "new": "flights_2013-03.csv"}
    found = rank(replace(case), settings, months)
    ages = {one.name: one.age_days for one in found.candidates}
    assert ages["new"] == 0
    assert ages["old"] == pytest.approx(59, abs=2)
