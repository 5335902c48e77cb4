"""A use case's file is loaded with what lies beside it, and its functions work where the files are not."""

import inspect
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from ray import cloudpickle

from mlops_ray.errors import UseCaseError
from mlops_ray.use_case import UseCase, load_use_case
from mlops_ray.use_case.loading import _is_beside, _package_of

CASE = """
from datetime import timedelta
import json
import polars as pl
{imports}
from mlops_ray import Column, Label, Source, Tables, UseCase
from mlops_ray.training.candidates import LogisticRegression

def view(tables: Tables) -> pl.DataFrame:
    {body}

columns = (Column("id", "text"), Column("at", "timestamp"), Column("late", "boolean", outcome=True))
use_case = UseCase(
    name="departures",
    sources={{"departures": Source("*.csv", columns)}},
    entities=("id",),
    event_time="at",
    label=Label("late", pl.col("late"), pl.col("at")),
    candidates=(LogisticRegression(),),
    feature_views={{"view": view}},
    feature_service="departures",
)
"""
ELSEWHERE = "import pickle, sys; print(pickle.load(open(sys.argv[1], 'rb'))({}))"


def write(folder: Path, imports: str, body: str, **beside: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in beside.items():
        path = folder.joinpath(*name.split("__in__")[::-1]).with_suffix(".py")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    (folder / "case.py").write_text(CASE.format(imports=imports, body=body))
    return folder / "case.py"


def answer_elsewhere(case: UseCase, folder: Path) -> str:
    """What the view returns in a process that has neither the folder nor its modules."""
    file = folder / "view.pickle"
    file.write_bytes(cloudpickle.dumps(case.feature_views["view"]))
    for source in folder.rglob("*.py"):
        source.unlink()
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(file)], cwd="/", capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("imports", "body"),
    [
        ("import helpers", "return helpers.value()"),
        ("import helpers as h", "return h.value()"),
        ("from helpers import value", "return value()"),
        ("from helpers import *", "return value()"),
        ("from . import helpers", "return helpers.value()"),
        ("import parts.deep", "return parts.deep.value()"),
        ("from parts.deep import value", "return value()"),
        ("from parts import deep", "return deep.value()"),
    ],
)
def test_modules_beside_the_file_are_found_here_and_where_the_folder_is_not(
    tmp_path: Path, imports: str, body: str
) -> None:
    file = write(
        tmp_path / "project",
        imports,
        body,
        helpers="import other\ndef value(): return other.number() + 1",
        other="def number(): return 41",
        __init____in__parts="",
        deep__in__parts="from .deeper import number\ndef value(): return number() + 1",
        deeper__in__parts="from other import number",
    )
    case = load_use_case(str(file))
    assert case.feature_views["view"]({}) == 42
    assert answer_elsewhere(case, file.parent) == "42"


def test_modules_of_one_name_of_two_use_cases_do_not_mix(tmp_path: Path) -> None:
    cases = [
        load_use_case(str(write(tmp_path / name, "import helpers", "return helpers.NAME", helpers=f"NAME = {name!r}")))
        for name in ("one", "two")
    ]
    assert [case.feature_views["view"]({}) for case in cases] == ["one", "two"]
    assert "helpers" not in sys.modules


def test_an_edit_within_the_same_second_counts_and_what_was_loaded_before_stays(tmp_path: Path) -> None:
    file = write(tmp_path, "from helpers import Recent", "return Recent().hours", helpers="class Recent: hours = 3")
    before = load_use_case(str(file))
    (tmp_path / "helpers.py").write_text("class Recent: hours = 4")
    after = load_use_case(str(file))
    assert [case.feature_views["view"]({}) for case in (before, after)] == [3, 4]
    assert cloudpickle.loads(cloudpickle.dumps(before.feature_views["view"]))({}) == 3


def test_what_is_installed_is_not_hidden_by_a_file_of_its_name(tmp_path: Path) -> None:
    file = write(tmp_path, "import random", "return random.Random(1).random() < 1", random="", polars="", json="")
    assert load_use_case(str(file)).feature_views["view"]({}) is True
    assert sys.modules["polars"] is pl


def test_a_folder_on_the_python_path_is_still_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "project", "import helpers", "return helpers.A", helpers="A = 1")
    monkeypatch.syspath_prepend(str(file.parent))
    assert answer_elsewhere(load_use_case(str(file)), file.parent) == "1"


def test_a_use_case_beside_our_own_package_uses_it_as_it_is() -> None:
    """As in a checkout, where what is installed and what lies beside are one."""
    assert not _is_beside("mlops_ray.use_case", _package_of(Path(__file__).parents[2]).__name__)


def test_the_source_of_a_class_beside_is_found(tmp_path: Path) -> None:
    file = write(tmp_path, "from helpers import Recent", "return Recent", helpers="class Recent:\n    hours = 3\n")
    found = load_use_case(str(file)).feature_views["view"]({})
    assert inspect.getsourcefile(found) == str(tmp_path / "helpers.py")
    assert inspect.getsource(found) == "class Recent:\n    hours = 3\n"


def test_what_a_function_imports_when_it_runs_is_refused_because_workers_lack_it(tmp_path: Path) -> None:
    file = write(tmp_path, "", "import helpers; return helpers.A", helpers="A = 1")
    with pytest.raises(UseCaseError, match=r"case\.py, line 10: view imports 'helpers', which lies beside .* top of"):
        load_use_case(str(file))
    file = write(tmp_path, "", "import statistics; return 1")
    load_use_case(str(file))


@pytest.mark.parametrize(
    ("helper", "message"),
    [
        ("import nothing_like_it", r"ModuleNotFoundError: No module named 'nothing_like_it' \(.*helpers\.py, line 1"),
        ("value = 1 / 0", r"ZeroDivisionError: division by zero \(.*helpers\.py, line 1: value = 1 / 0\)"),
    ],
)
def test_an_error_beside_the_file_has_its_line(tmp_path: Path, helper: str, message: str) -> None:
    with pytest.raises(UseCaseError, match=message):
        load_use_case(str(write(tmp_path, "import helpers", "return 1", helpers=helper)))
