"""What a user's code raises is the user's, with its line; what ours raises is not."""

import traceback
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest
from ray.exceptions import RayTaskError

from mlops_ray.artifacts import Artifacts
from mlops_ray.errors import DataError, UseCaseError
from mlops_ray.use_case.user_code import fault_of_user, user_code, what_happened

TEXT = """
import json
import polars as pl
def divide(): return 1 / 0
def parse(): return json.loads("{")
def select(): return pl.DataFrame({"a": [1]}).select("b")
def several(): raise ValueError("one\\ntwo")
def silent(): raise StopAsyncIteration
def panic(): raise pl.exceptions.PanicException("out of range")
"""


@pytest.fixture
def theirs(tmp_path: Path) -> SimpleNamespace:
    names: dict[str, object] = {}
    file = tmp_path / "views.py"
    file.write_text(TEXT)
    exec(compile(TEXT, str(file), "exec"), names)
    return SimpleNamespace(**names, file=file)


@pytest.mark.parametrize(
    ("name", "said", "line"),
    [
        ("divide", "ZeroDivisionError: division by zero", 4),
        ("parse", "JSONDecodeError: Expecting property name", 5),
        ("select", 'ColumnNotFoundError: unable to find column "b"', 6),
        ("several", "ValueError: one two", 7),
        ("silent", "StopAsyncIteration", 8),
        ("panic", "PanicException: out of range", 9),
    ],
)
def test_an_exception_of_the_users_names_what_it_was_in_and_its_line(
    theirs: SimpleNamespace, name: str, said: str, line: int
) -> None:
    with pytest.raises(UseCaseError) as caught, user_code("Feature view 'recent'"):
        getattr(theirs, name)()
    text = str(caught.value)
    assert text.startswith(f"Feature view 'recent': {said}")
    assert f"({theirs.file}, line {line}: " in text
    assert "\n" not in text


def test_our_own_errors_pass() -> None:
    with pytest.raises(DataError, match=r"^as it is$"), user_code("anything"):
        raise DataError("as it is")


def raised(call: object) -> Exception:
    try:
        call()  # type: ignore[operator]
    except Exception as error:
        return error
    raise AssertionError


def test_whose_fault_it_is_depends_on_who_called_last(theirs: SimpleNamespace, tmp_path: Path) -> None:
    assert "line 5" in str(fault_of_user(raised(theirs.parse)))
    ours = raised(lambda: Artifacts(str(tmp_path)).read_bytes("nothing"))
    assert fault_of_user(ours) is None


@pytest.mark.parametrize("dual", [True, False])
def test_the_fault_is_found_in_the_text_that_ray_carries(theirs: SimpleNamespace, dual: bool) -> None:
    """Ray's error in this process has the frames of the task as text alone."""
    inner = raised(theirs.divide)
    remote = (
        f'ray::_transform_view()\n  File "{Path(pl.__file__)}", line 3, in select\n'
        f'  File "{theirs.file}", line 4, in divide\n    return 1 / 0\nZeroDivisionError: division by zero'
    )
    error = RayTaskError("view", remote, inner, "ray::view", 1, "127.0.0.1")
    assert fault_of_user(error.as_instanceof_cause() if dual else error) == (
        f"ZeroDivisionError: division by zero ({theirs.file}, line 4: def divide(): return 1 / 0)"
    )


def test_what_ours_raised_in_a_task_is_ours(theirs: SimpleNamespace, tmp_path: Path) -> None:
    inner = raised(lambda: Artifacts(str(tmp_path)).read_bytes("nothing"))
    remote = "".join(traceback.format_exception(inner)).replace(__file__, "/usr/lib/python3.11/site-packages/x.py")
    assert fault_of_user(RayTaskError("read", remote, inner, "ray::read", 1, "127.0.0.1").as_instanceof_cause()) is None


def test_an_exception_that_says_nothing_is_said_to() -> None:
    assert what_happened(Exception()) == "Exception, without a text"
    assert what_happened(ValueError("no")) == "ValueError: no"
