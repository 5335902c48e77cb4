"""Definitions are what one service uses, and nothing else of its repository; conflicts are refused by name."""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import pytest

from mlops_ray.artifacts import Artifacts
from mlops_ray.errors import UseCaseError
from mlops_ray.features.definitions import DeclaredView, Definitions, View, project_of, read_definitions
from mlops_ray.features.definitions_reader import main
from mlops_ray.features.transform import FeatureRows

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
IMPORTS = """
from datetime import timedelta
from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Array, Float32, Float64, Int64, String, UnixTimestamp
"""
ENTITIES = """
from feast import Entity, ValueType
airport = Entity(name="airport", join_keys=["faa"], value_type=ValueType.STRING)
"""
VIEW = """
weather = FeatureView(
    name="weather", entities=[airport], ttl=timedelta(hours=3), schema=[Field(name="temp", dtype=Float64)],
    source=FileSource(name="weather", path="weather.parquet", timestamp_field="event_timestamp"),
)
"""
SERVICE = 'flights = FeatureService(name="flights", features=[weather])\n'


def repository(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        file = folder / f"{name.replace('__', '/')}.py"
        file.parent.mkdir(exist_ok=True, parents=True)
        file.write_text(text)
    return folder


def read(folder: Path, service: str = "flights", declared: Sequence[DeclaredView] = ()) -> Definitions:
    """As `read_definitions`, in a fork of this process, which has imported Feast already (5 s)."""
    answer = folder.with_suffix(".answer")
    if (child := os.fork()) == 0:
        os.chdir(folder)
        main(str(folder), service, str(answer), json.dumps([asdict(view) for view in declared]))
        os._exit(0)
    os.waitpid(child, 0)
    found = json.loads(answer.read_text())
    if "error" in found:
        raise UseCaseError(found["error"])
    return Definitions.from_json(found["definitions"])


@pytest.mark.timeout(120)
def test_modules_may_import_one_another_and_nothing_of_them_stays(tmp_path: Path) -> None:
    before = list(sys.path)
    siblings = repository(
        tmp_path / "siblings",
        places=ENTITIES,
        views=IMPORTS + "from places import airport\n" + VIEW,
        main=IMPORTS + "from views import weather\n" + SERVICE,
    )
    relative = repository(
        tmp_path / "relative",
        team__places=ENTITIES,
        team__views=IMPORTS + "from .places import airport\n" + VIEW + SERVICE,
    )
    at_the_top = repository(
        tmp_path / "top", places=ENTITIES, views=IMPORTS + "from .places import airport\n" + VIEW + SERVICE
    )
    found = read_definitions(siblings, "flights")
    assert found is not None
    assert read(relative).digest == read(at_the_top).digest == found.digest
    assert set(found.files) == {"places.py", "views.py", "main.py"}
    assert set(read(relative).files) == {"team/places.py", "team/views.py"}
    (view,) = found.views
    assert (view.name, view.keys, view.features, view.ttl) == ("weather", ("faa",), ("temp",), timedelta(hours=3))
    assert view.types == {"faa": "String", "temp": "Float64"}
    assert sys.path == before
    files = [getattr(module, "__file__", None) or "" for module in sys.modules.values()]
    assert [file for file in files if file.startswith(str(tmp_path))] == []


@pytest.mark.timeout(120)
def test_only_what_the_service_uses_counts(tmp_path: Path) -> None:
    text = IMPORTS + ENTITIES + VIEW + SERVICE
    alone = read(repository(tmp_path / "alone", flights=text))
    other = VIEW.replace("weather", "traffic") + 'roads = FeatureService(name="roads", features=[traffic])\n'
    shared = "from flights import weather\nothers = FeatureService(name='others', features=[weather])\n"
    beside = repository(
        tmp_path / "beside",
        flights=f"# a comment\n{text}",
        roads=IMPORTS + ENTITIES + other,
        shared=IMPORTS + shared,
        broken="import nowhere\n",
    )
    found = read(beside)
    assert (found.digest, set(found.files)) == (alone.digest, {"flights.py"})
    assert read(beside, "others").views == found.views  # one view, shared on purpose
    changed = read(repository(tmp_path / "changed", flights=text.replace("hours=3", "hours=4")))
    assert changed.digest != alone.digest


@pytest.mark.timeout(60)
def test_the_service_says_which_features_it_takes_and_by_which_keys(tmp_path: Path) -> None:
    view = VIEW.replace("dtype=Float64)", 'dtype=Float64), Field(name="wind", dtype=Int64)')
    service = SERVICE.replace("weather]", 'weather[["wind"]].with_join_key_map({"faa": "dest"})]')
    (found,) = read(repository(tmp_path, flights=IMPORTS + ENTITIES + view + service)).views
    assert (found.features, found.fields) == (("wind",), ("temp", "wind"))
    assert (found.keys, found.asked) == (("faa",), ("dest",))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (VIEW + VIEW.replace("hours=3", "hours=9").replace("weather =", "w =") + SERVICE, "'weather' is defined more"),
        (VIEW + 'x = FeatureService(name="other", features=[weather])', r"'flights' is not defined .*it has other"),
        (VIEW.replace("ttl=timedelta(hours=3), ", "") + SERVICE, "'weather' has no ttl"),
        (VIEW.replace("dtype=Float64", "dtype=Array(Float32)") + SERVICE, r"'temp' is defined as Array\(Float32\)"),
        (VIEW.replace("dtype=Float64", "dtype=UnixTimestamp") + SERVICE, "'temp' is defined as UnixTimestamp"),
        (VIEW.replace('"temp"', '"label"') + SERVICE, "'label' has a reserved name"),
        (VIEW.replace('schema=[Field(name="temp", dtype=Float64)],', "") + SERVICE, "has no schema"),
        (VIEW.replace('"event_timestamp"', '"at"') + SERVICE, "timestamp_field is 'at'"),
        (VIEW.replace("entities=[airport], ", "") + SERVICE, "without entities"),
        ("1 / 0\n" + VIEW + SERVICE, r"ZeroDivisionError.*flights\.py, line"),
    ],
)
def test_what_cannot_be_served_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(UseCaseError, match=sentence):
        read(repository(tmp_path, flights=IMPORTS + ENTITIES + text))


@pytest.mark.timeout(60)
def test_what_was_read_is_remembered_by_the_content_of_the_repository(tmp_path: Path) -> None:
    folder, kept = repository(tmp_path / "repository", flights=IMPORTS + ENTITIES + VIEW + SERVICE), tmp_path / "kept"
    first = read_definitions(folder, "flights", Artifacts(str(kept)))
    (record,) = (kept / "definitions").iterdir()
    record.write_text(record.read_text().replace('"ttl_s": 10800.0', '"ttl_s": 7.0'))
    second = read_definitions(folder, "flights", Artifacts(str(kept)))
    assert first is not None
    assert second is not None
    assert second.views[0].ttl_s == 7.0
    (folder / "limits.yaml").write_text("what a module may read")
    assert read_definitions(folder, "flights", Artifacts(str(kept))) == first


DECLARED = DeclaredView(
    "visits", {"faa": "String", "desk": "Int64"}, {"visits_mean": "Float64", "visits_n": "Int64"}, 7.0
)


@pytest.mark.timeout(60)
def test_a_view_that_the_repository_has_not_is_made_of_its_declaration(tmp_path: Path) -> None:
    """With the repository's entities where it has them; what it does define stands, and a function needs that."""
    folder = repository(
        tmp_path / "a", flights=IMPORTS + ENTITIES.replace('"airport", join_keys=["faa"]', '"faa"') + VIEW
    )
    found = read(folder, "flights", [DeclaredView("weather"), DECLARED])
    assert [view.name for view in found.views] == ["weather", "visits"]
    made = found.views[1]
    assert (made.keys, made.asked, made.ttl) == (("faa", "desk"), ("faa", "desk"), timedelta(seconds=7))
    assert made.types == {**DECLARED.keys, **DECLARED.features}
    assert set(found.files) == {"flights.py"}
    assert set(found.specs["entities"]) == {"faa", "desk"}
    with pytest.raises(UseCaseError, match=r"'traffic' is a function, and .* does not define it"):
        read(folder, "flights", [DeclaredView("traffic"), DECLARED])
    alone = read(repository(tmp_path / "b", flights=IMPORTS + ENTITIES + VIEW + SERVICE), "flights", [DECLARED])
    assert [view.name for view in alone.views] == ["weather"], "the service of the repository says what it reads"
    nowhere = read_definitions(tmp_path / "none", "flights", declared=[DECLARED])
    assert nowhere is not None
    assert (nowhere.views, dict(nowhere.files)) == ((made,), {})


def test_the_order_of_columns_is_the_same_when_definitions_were_kept() -> None:
    types = {"origin": "String", "temp": "Float64", "humid": "Float64"}
    view = View("weather", ("origin",), ("origin",), ("temp", "humid"), ("temp", "humid"), types, 3600.0, {})
    kept = View.from_json(json.loads(json.dumps(asdict(view), sort_keys=True)))
    assert (kept, list(kept.types)) == (view, list(view.types))


def test_a_project_is_of_the_definitions_and_of_the_code_of_the_rows() -> None:
    definitions = Definitions("a_service_with_a_long_name", "digest", (), {}, {})
    assert project_of(definitions, []).startswith("a_service_with_a_")
    view = Definitions.from_json(
        {
            "service": "s", "digest": "d", "specs": {}, "files": {},
            "views": [{"name": "v", "keys": [], "asked": [], "features": [], "fields": [], "types": {}, "ttl_s": 1.0,
                       "columns": {}}],
        }
    )  # fmt: skip
    names = {project_of(view, [FeatureRows("v", url, "", 0, code)]) for url in "ab" for code in "xy"}
    assert len(names) == 2
    assert project_of(view, [FeatureRows("v", "", "", 0, "x"), FeatureRows("unused", "", "", 0, "y")]) in names
