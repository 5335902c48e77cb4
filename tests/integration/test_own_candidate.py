"""The candidate in the docs keeps the contract, as it stands there."""

import importlib.util
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlops_ray.tasks.task import Task
from mlops_ray.testing.candidates import CHECKS, TASKS

PAGE = Path(__file__).parents[2] / "docs" / "candidates.md"
CODE = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[0]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The module that a user would save."""
    file = tmp_path_factory.mktemp("own") / "extra_trees_of_docs.py"
    file.write_text(CODE)
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[file.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules[file.stem]


@pytest.mark.parametrize("task", TASKS[:3], ids=str)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_candidate_in_the_docs_keeps_the_contract(own: Any, check: Callable[..., None], task: Task) -> None:
    check(own.OurExtraTrees(), {"trees": 20, "rows_in_leaf": 5}, task)


def test_it_is_at_most_30_lines_long() -> None:
    assert len([line for line in CODE.splitlines() if line.strip()]) <= 30
