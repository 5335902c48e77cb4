"""A fingerprint is another when the value does something else, and the same when it does the same."""

import functools
import importlib
import linecache
import re
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_ray.errors import UseCaseError
from mlops_ray.pipeline.changes import changes
from mlops_ray.pipeline.fingerprint import Known, canonical, fingerprint
from mlops_ray.use_case import Column

TABLE = pl.DataFrame({"key": range(1000), "value": [one / 7 for one in range(1000)]})
OTHER_IN_THE_MIDDLE = TABLE.with_columns(pl.when(pl.col("key") == 500).then(0.0).otherwise("value").alias("value"))


def imported(folder: Path, text: str, name: str = "user_views") -> types.ModuleType:
    """The module as Python imports it from the user's folder; again, if it is loaded already."""
    (folder / f"{name}.py").write_text(text)
    importlib.invalidate_caches()
    forget(name)
    return importlib.import_module(name)


def forget(*names: str) -> None:
    for loaded in [one for one in sys.modules if one.split(".")[0] in (*names, "helpers", "user_package")]:
        del sys.modules[loaded]


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    yield
    forget("user_views")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return tmp_path


def view(tables: object, hours: int = 3, lookup: pl.DataFrame = TABLE) -> int:
    return hours


@dataclass(frozen=True)
class Candidate:
    name: str = "mine"
    space: dict[str, float] = field(default_factory=dict)


class Plain:
    def __init__(self, depth: int) -> None:
        self.depth = depth


class Slotted:
    __slots__ = ("depth",)

    def __init__(self, depth: int) -> None:
        self.depth = depth


def closing_over(value: Any) -> Callable[[], Any]:
    return lambda: value


DIFFERENT: dict[str, tuple[Any, Any]] = {
    "an argument of a partial (K6)": (functools.partial(view, hours=3), functools.partial(view, hours=24)),
    "a position of a partial": (functools.partial(view, None, 3), functools.partial(view, None, 24)),
    "a lookup table in the middle (K6)": (TABLE, OTHER_IN_THE_MIDDLE),
    "a lookup table in a partial (K6)": (
        functools.partial(view, lookup=TABLE),
        functools.partial(view, lookup=OTHER_IN_THE_MIDDLE),
    ),
    "a lookup table in a closure (K6)": (closing_over(TABLE), closing_over(OTHER_IN_THE_MIDDLE)),
    "a table in pandas": (TABLE.to_pandas(), OTHER_IN_THE_MIDDLE.to_pandas()),
    "an array in the middle": (TABLE["value"].to_numpy(), OTHER_IN_THE_MIDDLE["value"].to_numpy()),
    "a series": (TABLE["value"], OTHER_IN_THE_MIDDLE["value"]),
    "an array's type": (np.zeros(3), np.zeros(3, np.float32)),
    "an array's shape": (np.zeros((2, 3)), np.zeros((3, 2))),
    "a text and its null": (pl.Series(["a", None]), pl.Series(["a", ""])),
    "two texts cut elsewhere": (pl.Series(["ab", "c"]), pl.Series(["a", "bc"])),
    "the order of rows": (TABLE, TABLE.reverse()),
    "the order of columns": (TABLE, TABLE.select("value", "key")),
    "an attribute of an object (K2)": (Plain(3), Plain(4)),
    "a slot of an object": (Slotted(3), Slotted(4)),
    "a field of a dataclass": (Candidate(), Candidate(space={"a": 1.0})),
    "two lambdas in one line": [(lambda x: x + 1, lambda x: x + 2)][0],
    "two lambdas of equal code": [(lambda x: x.mean(), lambda x: x.sum())][0],
    "an expression": (pl.col("a") + 1, pl.col("a") + 2),
    "names of features swapped (K5)": ({"a": pl.col("x"), "b": pl.col("y")}, {"b": pl.col("x"), "a": pl.col("y")}),
    "the order of a mapping": ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    "a number and a text": (1, "1"),
    "a number and a truth": (1, True),
    "an integer and a float": (1, 1.0),
    "the sign of zero": (0.0, -0.0),
    "not a number and none": (float("nan"), None),
    "a tuple and a list": ((1, 2), [1, 2]),
    "nesting": ([[1], 2], [1, [2]]),
    "a list that looks like a tagged one": (["tuple", 1], (1,)),
    "zones of the same moment": (
        datetime(2026, 1, 1, tzinfo=UTC),
        datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=1))),
    ),
    "a decimal": (Decimal("1.0"), Decimal("1.00")),
    "a pattern's flags": (re.compile("a"), re.compile("a", re.IGNORECASE)),
    "two functions of a library": (np.sin, np.cos),
    "two builtin functions": (len, sum),
    "two methods": ("a".upper, "a".lower),
    "methods of two objects": ("a".upper, "b".upper),
    "bytes": (b"a", b"b"),
}
SAME: dict[str, Callable[[], Any]] = {
    "a plain object (K2)": lambda: Plain(3),
    "an object with slots": lambda: Slotted(3),
    "a frame in other chunks": lambda: pl.concat([TABLE.head(9), TABLE.tail(-9)], rechunk=False),
    "a set of texts": lambda: {"a", "b", "c"},
    "a closure": lambda: closing_over([1, 2]),
    "a partial of a frame": lambda: functools.partial(view, lookup=TABLE.clone()),
    "an object that refers to itself": lambda: _knotted(),
    "a not-a-number": lambda: [float("nan")],
    "a column of objects": lambda: pl.Series([Plain(1), None], dtype=pl.Object),
    "a pandas frame of texts": lambda: pd.DataFrame({"a": ["x", None, "y"]}),
    "a method of an object": lambda: Plain(3).__init__,
}


def _knotted() -> Plain:
    knot = Plain(3)
    knot.itself = knot  # type: ignore[attr-defined]
    return knot


@pytest.mark.parametrize("what", DIFFERENT)
def test_what_does_something_else_is_another(what: str) -> None:
    one, other = DIFFERENT[what]
    assert fingerprint(one) != fingerprint(other)


@pytest.mark.parametrize("what", SAME)
def test_what_does_the_same_is_the_same(what: str) -> None:
    assert fingerprint(SAME[what]()) == fingerprint(SAME[what]())


def test_garbage_under_a_null_does_not_count() -> None:
    clean = pl.DataFrame({"a": [1, None, 3]})
    dirty = pl.DataFrame({"a": [1, 2, 3], "keep": [True, False, True]}).select(pl.when("keep").then("a").alias("a"))
    assert fingerprint(clean) == fingerprint(dirty)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)


@given(plain, plain)
def test_values_are_equal_exactly_where_their_texts_are(one: Any, other: Any) -> None:
    """repr tells these types apart to the last digit, so it can stand as the reference."""
    assert (fingerprint(one) == fingerprint(other)) == (repr(one) == repr(other))


@pytest.mark.parametrize("value", [threading.Lock(), {"a": [threading.Lock()]}, Plain(threading.Lock())])  # type: ignore[arg-type]
def test_what_cannot_be_compared_is_refused_by_name(value: Any) -> None:
    with pytest.raises(UseCaseError, match=r"feature view plane.* is a _thread\.lock, which cannot be compared"):
        canonical(value, "feature view plane")


def test_content_counts_and_not_where_it_lies() -> None:
    assert fingerprint(Known("digest", "/here")) == fingerprint(Known("digest", "/there"))
    assert fingerprint(Known("digest", "/here")) != fingerprint(Known("other", "/here"))


def test_code_of_the_users_file_counts(folder: Path) -> None:
    before = fingerprint(imported(folder, "def view(tables):\n    return 1\n").view)
    assert fingerprint(imported(folder, "def view(tables):\n    return 1\n").view) == before
    assert fingerprint(imported(folder, "def view(tables):\n    return 2\n").view) != before


def test_an_edited_fit_of_a_candidate_counts(folder: Path) -> None:
    """K1: its repr is the same."""
    text = (
        "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass Mine:\n    name: str = 'mine'\n"
        "    def fit(self, matrix):\n        return 1\n"
    )
    before = fingerprint(imported(folder, text).Mine())
    assert fingerprint(imported(folder, text).Mine()) == before
    assert fingerprint(imported(folder, text.replace("return 1", "return 2")).Mine()) != before


IMPORTS = {
    "plain": "import helpers\ndef view(tables):\n    return helpers.scale(1)\n",
    "from": "from helpers import scale\ndef view(tables):\n    return scale(1)\n",
    "star": "from helpers import *\ndef view(tables):\n    return scale(1)\n",
    "inside the function": "def view(tables):\n    from helpers import scale\n    return scale(1)\n",
    "by name at run time": (
        "import importlib\nh = importlib.import_module('helpers')\ndef view(tables):\n    return h.scale(1)\n"
    ),
    "by way of another": "import between\ndef view(tables):\n    return between.scale(1)\n",
}


@pytest.mark.parametrize("how", IMPORTS)
def test_the_users_own_modules_count_however_they_are_imported(how: str, folder: Path) -> None:
    (folder / "between.py").write_text("from helpers import scale\n")
    found = []
    for factor in (2, 2, 3):
        (folder / "helpers.py").write_text(f"def scale(x):\n    return {factor} * x\n")
        found.append(fingerprint(imported(folder, IMPORTS[how]).view))
    assert found[0] == found[1] != found[2]


def test_a_file_edited_after_its_import_is_refused(folder: Path) -> None:
    """Its new text would be the key, and its old code would run."""
    (folder / "helpers.py").write_text("class Scale:\n    def of(self, x):\n        return 2 * x\n")
    module = imported(folder, "import helpers\ndef view(tables):\n    return helpers.Scale().of(1)\n")
    before = fingerprint(module.view)
    (folder / "helpers.py").write_text("# Moved.\n\nclass Scale:\n    def of(self, x):\n        return 2 * x\n")
    assert fingerprint(module.view) != before
    (folder / "helpers.py").write_text("class Scale:\n    def of(self, x):\n        return 3 * x\n")
    with pytest.raises(UseCaseError, match=r"helpers\.py has changed since it was imported: Scale\.of is not what"):
        fingerprint(module.view)
    importlib.reload(module.helpers)
    assert fingerprint(module.view) != before


def test_what_else_was_imported_from_the_package_does_not_count(folder: Path) -> None:
    """A process that has drawn a plot before computes the same."""
    package = folder / "their_package"
    package.mkdir()
    (package / "__init__.py").write_text("import importlib\nscaling = importlib.import_module('.scaling', __name__)\n")
    (package / "scaling.py").write_text("def scale(x):\n    return 2 * x\n")
    (package / "plots.py").write_text("def plot(x):\n    return x\n")
    view = imported(folder, "import their_package\ndef view(t):\n    return their_package.scaling.scale(1)\n").view
    before = fingerprint(view)
    importlib.import_module("their_package.plots")
    assert fingerprint(view) == before
    (package / "scaling.py").write_text("# Twice.\ndef scale(x):\n    return 2 * x\n")
    assert fingerprint(view) != before


def test_a_function_that_a_library_has_made_from_theirs_is_not_taken_for_theirs(folder: Path) -> None:
    text = (
        "import polars as pl\nfrom hypothesis.stateful import RuleBasedStateMachine, rule\n"
        "from hypothesis import strategies as st\n\nclass Machine(RuleBasedStateMachine):\n"
        "    @rule(x=st.integers())\n    def step(self, x: int) -> None:\n        self.x = x\n"
    )
    (folder / "machines.py").write_text(text)
    assert fingerprint(imported(folder, "import machines\ndef view(t):\n    return machines.Machine\n").view)


def test_relative_imports_within_a_package_count(folder: Path) -> None:
    package = folder / "user_package"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "inner" / "__init__.py").write_text("")
    (package / "inner" / "views.py").write_text("from ..scaling import scale\ndef view(t):\n    return scale(1)\n")
    found = []
    for factor in (2, 2, 3):
        (package / "scaling.py").write_text(f"def scale(x):\n    return {factor} * x\n")
        found.append(fingerprint(imported(folder, "from user_package.inner.views import view\n").view))
    assert found[0] == found[1] != found[2]


def test_a_helper_used_only_within_an_expression_counts(folder: Path) -> None:
    """polars keeps a Python function of an importable module by its name alone."""
    text = "import polars as pl\nfrom helpers import scale\nvalue = pl.col('a').map_batches(scale)\n"
    found = []
    for factor in (2, 2, 3):
        (folder / "helpers.py").write_text(f"def scale(x):\n    return {factor} * x\n")
        found.append(fingerprint(imported(folder, text).value))
    assert found[0] == found[1] != found[2]


def test_a_table_that_the_module_read_when_it_was_imported_counts(folder: Path) -> None:
    text = "import polars as pl\nRATES = pl.read_csv({!r})\ndef view(tables):\n    return RATES.height\n"
    found = []
    for frame in (TABLE, TABLE, OTHER_IN_THE_MIDDLE):
        frame.write_csv(folder / "rates.csv")
        found.append(fingerprint(imported(folder, text.format(str(folder / "rates.csv"))).view))
    assert found[0] == found[1] != found[2]


def test_the_folder_of_the_project_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "import helpers\ndef view(t):\n    return helpers.scale(1)\n"
    found = []
    for name in ("here", "there"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "helpers.py").write_text("def scale(x):\n    return 2 * x\n")
        with monkeypatch.context() as patch:
            patch.syspath_prepend(str(folder))
            patch.setattr(sys, "dont_write_bytecode", True)
            found.append(fingerprint(imported(folder, text).view))
    assert found[0] == found[1]


def test_a_missing_library_counts_until_it_is_installed(folder: Path) -> None:
    """K3: a candidate failed with "No module named …"; after the installation it is another."""
    text = "def fit():\n    import helpers_to_come\n"
    before = canonical(imported(folder, text).fit)
    assert "not installed" in str(before)
    (folder / "helpers_to_come.py").write_text("x = 1\n")
    assert canonical(imported(folder, text).fit) != before


def cell(name: str, text: str, scope: dict[str, Any]) -> None:
    """Runs a cell as IPython does: the source is known to linecache, and there is no file."""
    file = f"/tmp/ipykernel_1/{name}.py"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    exec(compile(text, file, "exec"), scope)


def notebook(view: str, helper: str = "def scale(x):\n    return 2 * x\n") -> Callable[..., Any]:
    scope: dict[str, Any] = {"__name__": "__main__"}
    cell("1", helper, scope)
    cell("2", view, scope)
    found: Callable[..., Any] = scope["view"]
    return found


def test_a_view_of_a_notebook_counts_by_its_source() -> None:
    """K6: an OSError before."""
    text = "def view(tables):\n    return scale(1)\n"
    before = fingerprint(notebook(text))
    assert fingerprint(notebook(text)) == before
    assert fingerprint(notebook(text.replace("1", "2"))) != before


def test_what_a_view_of_a_notebook_uses_counts() -> None:
    text = "def view(tables):\n    return scale(1)\n"
    assert fingerprint(notebook(text, "def scale(x):\n    return 3 * x\n")) != fingerprint(notebook(text))
    assert fingerprint(notebook(text, "scale = {1: 2}.get\n")) != fingerprint(notebook(text, "scale = {1: 3}.get\n"))


def test_a_candidate_of_a_notebook_counts_by_its_methods() -> None:
    text = "class Mine:\n    def fit(self):\n        return {}\nview = Mine()\n"
    before = fingerprint(notebook(text.format(1)))
    assert fingerprint(notebook(text.format(1))) == before
    assert fingerprint(notebook(text.format(2))) != before


def test_code_without_any_source_counts_by_what_python_made_of_it() -> None:
    code = "from mlops_ray.pipeline.fingerprint import fingerprint\ndef view(t): return {}\nprint(fingerprint(view))"
    found = [
        subprocess.run([sys.executable, "-c", code.format(one)], capture_output=True, text=True, check=True).stdout
        for one in (1, 1, 2)
    ]
    assert found[0] == found[1] != found[2]


def test_a_change_is_named_from_outside_to_inside() -> None:
    columns = (Column("origin", "text", choices=("EWR", "JFK")), Column("at", "timestamp"))
    other = (replace(columns[0], choices=("EWR", "LGA")), columns[1])
    found = list(changes(canonical({"columns": columns, "n": 1}), canonical({"columns": other, "n": 2})))
    assert [str(change) for change in found] == ["columns.origin.choices.1: JFK → LGA", "n: 1 → 2"]


def test_no_change_is_named_where_there_is_none() -> None:
    assert list(changes(canonical(TABLE), canonical(TABLE.clone()))) == []
