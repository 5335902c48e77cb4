"""How old views are, who is told, and stores that cannot be used."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import load_settings
from mlops_ray.errors import ConfigurationError, UnavailableError, UseCaseError
from mlops_ray.features.definitions import Definitions, keep_definitions, read_definitions
from mlops_ray.features.online.freshness import freshness
from mlops_ray.features.online.materialize import materialize
from mlops_ray.features.online.store import writer_of
from mlops_ray.features.online.write import Noted
from mlops_ray.features.store import Store
from mlops_ray.governance.events import read_events
from mlops_ray.serving.freshness import FreshnessWatch
from mlops_ray.testing.example_endpoint import NAME, ExampleEndpoint, example_endpoint
from tests.integration.test_online_store import DEFINITIONS, HOUR, NOON, ROWS, rows_of, us


def definitions_with(folder: Path, stale_after: str) -> Definitions:
    tags = f'name="delays",\n    tags={{"stale_after": "{stale_after}"}},'
    folder.mkdir(exist_ok=True)
    (folder / "views.py").write_text(DEFINITIONS.replace('name="delays",', tags, 1))
    found = read_definitions(folder, "service")
    assert found is not None
    return found


@pytest.fixture
def example(tmp_path: Path) -> Iterator[ExampleEndpoint]:
    with example_endpoint(tmp_path / "state") as example:
        yield example


def test_a_view_tells_once_that_it_is_stale_and_once_that_it_is_fresh(example: ExampleEndpoint, tmp_path: Path) -> None:
    """With a ttl of three hours and a tag of half of it."""
    settings, store = example.settings, example.store
    definitions = definitions_with(tmp_path / "repository", "0.5")
    project = str(example.follower.traffic.champion.schema.feature_project)
    keep_definitions(Artifacts(settings.artifacts), project, definitions)
    clock = [NOON.timestamp()]
    watch = FreshnessWatch(settings, store, NAME, example.follower, lambda: clock[0], "replica")
    writer = writer_of(settings.online_store, project)

    def told(later: timedelta) -> list[str]:
        before = read_events(store)[-1].seq
        clock[0] = (NOON + later).timestamp()
        watch.look()
        return [event.type for event in read_events(store, before)]

    assert told(timedelta()) == ["feature.stale"]  # there is no value at all
    writer.note("delays", Noted(us(NOON)))
    assert told(HOUR) == ["feature.fresh"]
    assert told(1.4 * HOUR) == []
    assert told(1.6 * HOUR) == ["feature.stale"]
    assert told(5 * HOUR) == []
    writer.note("delays", Noted(us(NOON - HOUR)))  # an older value makes nothing fresh
    assert told(5 * HOUR) == []
    writer.note("delays", Noted(us(NOON + 4 * HOUR)))
    assert told(5 * HOUR) == ["feature.fresh"]
    last = read_events(store)[-1]
    assert (last.use_case, last.subject, last.payload["age_s"]) == (NAME, f"features {NAME}/delays", 3600.0)
    assert "stale after 0.5 of its ttl of 3:00:00" in last.reason
    (fresh,) = freshness(settings, project, definitions)
    assert fresh.newest == NOON + 4 * HOUR


@pytest.mark.parametrize("part", ["0", "1.5", "half"])
def test_a_tag_that_is_no_part_of_a_ttl_is_refused_before_anything_is_written(part: str, tmp_path: Path) -> None:
    settings = load_settings(state=str(tmp_path / "state"), data=str(tmp_path))
    definitions = definitions_with(tmp_path / "repository", part)
    with pytest.raises(UseCaseError, match=f"'delays': its tag stale_after is '{part}'"):
        materialize(settings, definitions, rows_of(settings, "delays", ROWS), NOON)
    assert not (tmp_path / "state/online_store.db").exists()


def test_a_registry_that_another_version_made_is_refused_with_a_sentence(tmp_path: Path) -> None:
    settings = load_settings(state=str(tmp_path), data=str(tmp_path))
    store = Store(settings, "project")
    assert store.applied() is None
    with closing(sqlite3.connect(settings.feast_registry.removeprefix("sqlite:///"))) as registry:
        registry.execute("ALTER TABLE feature_services RENAME COLUMN feature_service_proto TO content")
    with pytest.raises(ConfigurationError, match=r"registry \(setting feast_registry\) cannot be used: no such column"):
        store.applied()


def test_a_dead_redis_is_said(tmp_path: Path) -> None:
    settings = load_settings(state=str(tmp_path), data=str(tmp_path), online_store="redis://127.0.0.1:1")
    definitions = definitions_with(tmp_path / "repository", "1")
    with pytest.raises(UnavailableError, match=r"The online store does not answer: .*Is it running"):
        materialize(settings, definitions, rows_of(settings, "delays", ROWS), NOON)
