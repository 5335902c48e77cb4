"""A use case is checked when it is declared, and its file when it is loaded."""

import pickle
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from mlops_ray import errors
from mlops_ray.errors import MlopsRayError, UseCaseError
from mlops_ray.use_case import BetterThanBaseline, Feature, UseCase, load_use_case

FLIGHTS = Path(__file__).parents[2] / "use_cases" / "flights.py"


@pytest.fixture(scope="module")
def flights() -> UseCase:
    return load_use_case(str(FLIGHTS))


def test_the_flights_use_case_loads(flights: UseCase) -> None:
    assert flights.request_columns() == ("carrier", "flight", "origin", "dest", "tailnum", "scheduled_departure")


def test_outcomes_are_never_offered_as_features(flights: UseCase) -> None:
    default = replace(flights, request_features=None).features_of_request()
    assert set(default) == {"minute"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "../flights"}, "a-z, 0-9"),
        ({"entities": ("carier",)}, "'carier' is not a column"),
        ({"event_time": "departure"}, "'departure' is not a column"),
        ({"candidates": ()}, "candidates is empty"),
        ({"sources": {}}, "sources is empty"),
        ({"feature_service": None}, "go together"),
        ({"request_features": {"origin": pl.col("origin").str.to_lowercase()}}, "has the name of an entity"),
    ],
)
def test_a_contradiction_is_refused_where_it_is_written(
    flights: UseCase, change: dict[str, object], message: str
) -> None:
    with pytest.raises(UseCaseError, match=message):
        replace(flights, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import nothing_of_that_name", "does not import: ModuleNotFoundError"),
        ("x = (", "does not import: SyntaxError"),
        ("x = 1", "defines 0 use cases"),
    ],
)
def test_a_file_that_is_no_use_case_is_refused_in_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "case.py").write_text(text)
    with pytest.raises(UseCaseError, match=message):
        load_use_case(str(tmp_path / "case.py"))


@pytest.mark.parametrize("name", ["flights", "arrivals", "delay", "outcome"])
def test_no_version_of_our_use_cases_goes_live_that_is_no_better_than_no_model(name: str) -> None:
    case = load_use_case(str(Path(__file__).parents[2] / "use_cases" / f"{name}.py"))
    (gate,) = (one for one in case.gates if isinstance(one, BetterThanBaseline))
    assert (gate.metric, gate.blocks) == (case.metric, True)


def test_an_absent_file_is_named() -> None:
    with pytest.raises(UseCaseError, match=r"use_cases/nothing\.py does not exist"):
        load_use_case("nothing")


@pytest.mark.parametrize(
    "kind", [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, MlopsRayError)]
)
def test_errors_keep_their_text_across_processes(kind: type[MlopsRayError]) -> None:
    assert str(pickle.loads(pickle.dumps(kind("what happened")))) == "what happened"


def test_a_feature_has_a_name() -> None:
    with pytest.raises(UseCaseError, match="A feature has an empty name"):
        Feature("", "number")
