"""A step can use what its inputs declare and nothing else."""

import pickle
from datetime import timedelta
from pathlib import Path

import pytest

from mlops_ray.config import Settings
from mlops_ray.pipeline.fingerprint import fingerprint
from mlops_ray.pipeline.part import UndeclaredUse, joined, part
from mlops_ray.use_case import Source, UseCase, load_use_case

FLIGHTS = Path(__file__).parents[2] / "use_cases" / "flights.py"


@pytest.fixture(scope="module")
def flights() -> UseCase:
    return load_use_case(str(FLIGHTS))


def test_what_is_declared_can_be_used(flights: UseCase) -> None:
    assert part(flights, "name", "split").split.test == timedelta(days=92)


def test_what_is_not_declared_is_refused_by_name(flights: UseCase) -> None:
    with pytest.raises(UndeclaredUse, match=r"UseCase\.gates is used by a step .* \(they declare name, split\)"):
        _ = part(flights, "name", "split").gates


def test_methods_run_on_the_part_and_can_use_no_more(flights: UseCase) -> None:
    seen = part(flights, "name", "entities", "event_time", "request_features")
    assert seen.features_of_request().keys() == flights.features_of_request().keys()
    assert seen.request_columns() == flights.request_columns()
    with pytest.raises(UndeclaredUse, match=r"UseCase\.sources"):
        _ = seen.main_source


def test_parts_of_parts(flights: UseCase) -> None:
    main: Source = flights.sources["flights"]
    seen = part(flights, "name", sources={"flights": part(main, "columns")})
    assert seen.sources[seen.main_source].column("origin") == main.column("origin")
    with pytest.raises(UndeclaredUse, match=r"Source\.path"):
        _ = seen.sources["flights"].path


def test_a_part_travels_to_workers() -> None:
    settings = Settings(state="/state", data="/data")
    seen = pickle.loads(pickle.dumps(joined(part(settings, "state"), part(settings, "artifacts"))))
    assert (seen.state, seen.artifacts) == ("/state", "/state/artifacts")
    with pytest.raises(UndeclaredUse, match=r"Settings\.data"):
        _ = seen.data


def test_only_the_parts_are_in_its_fingerprint() -> None:
    one, other = (Settings(state="/state", data=data) for data in ("/data", "/other"))
    assert fingerprint(part(one, "state")) == fingerprint(part(other, "state"))
    assert fingerprint(part(one, "state", "data")) != fingerprint(part(other, "state", "data"))
