"""A long benchmark is run part by part: what was whole is kept, and no figure stands there that nothing measured."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from benchmarks import run


def one() -> Iterator[tuple[str, float, str]]:
    yield "first", 1.0, "s"


def stopped() -> Iterator[tuple[str, float, str]]:
    yield "second", 2.0, "s"
    raise KeyboardInterrupt


@pytest.fixture
def area(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    (tmp_path / "long.py").touch()
    monkeypatch.setattr(run, "HERE", tmp_path)
    monkeypatch.setattr(run, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(sys, "path", list(sys.path))
    module = ModuleType("long")
    module.PARTS = {"a": one, "b": stopped}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "long", module)
    return module


def kept() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run.RESULTS.read_text())["long"]
    return found


def test_a_run_that_is_stopped_keeps_the_parts_that_were_whole(area: ModuleType) -> None:
    with pytest.raises(KeyboardInterrupt):
        run.main(["long"])
    assert kept()["figures"] == {"long.first": {"value": 1.0, "unit": "s", "part": "a"}}
    assert list(kept()["parts"]) == ["a"]


def test_a_part_is_run_alone_and_leaves_the_others_in_their_order(area: ModuleType) -> None:
    area.PARTS = {"z": lambda: iter([("last", 3.0, "s")]), "a": one}
    run.main(["long:a"])
    run.main(["long:z"])
    assert list(kept()["figures"]) == ["long.last", "long.first"]
    assert set(kept()["parts"]["a"]) == {"when", "machine"}


def test_a_figure_that_no_part_has_measured_goes(area: ModuleType) -> None:
    typed = {"long.typed": {"value": 9.0, "unit": "s"}, "long.old": {"value": 9.0, "unit": "s", "part": "gone"}}
    run.RESULTS.write_text(json.dumps({"long": {"figures": typed}, "other": {"figures": {}}}))
    run.main(["long:a"])
    assert list(kept()["figures"]) == ["long.first"]
    assert "other" in json.loads(run.RESULTS.read_text())


def test_a_part_that_there_is_not_is_named_with_those_that_there_are(area: ModuleType) -> None:
    with pytest.raises(SystemExit, match=r"long has no part c. Known: a, b"):
        run.main(["long:c"])
