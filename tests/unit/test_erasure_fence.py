"""Nothing stays of what a step wrote while a person was erased: it may have read their rows before."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import polars as pl
import pytest

from mlops_ray.artifacts import Artifacts
from mlops_ray.errors import ConflictError
from mlops_ray.features.source_tables import given_tables
from mlops_ray.features.training_parts import FOLDER
from mlops_ray.features.transform import _compute
from mlops_ray.governance.erased_rows import begin_erasing
from mlops_ray.pipeline.erasure_fence import run_fenced
from mlops_ray.pipeline.pipeline import PIPELINE
from mlops_ray.pipeline.steps.features import FEATURES
from mlops_ray.pipeline.steps.materialize import MATERIALIZE
from mlops_ray.pipeline.steps.step import Step, Where
from mlops_ray.pipeline.steps.training_set import TRAINING_SET
from tests.unit.test_feature_rows import VIEW, frame

INPUTS = SimpleNamespace(use_case=SimpleNamespace(name="case"))


def of_view(artifacts: Artifacts) -> dict[str, Any]:
    rows = _compute("case", VIEW, lambda tables: frame(), "code", artifacts, given_tables({}))()
    assert not isinstance(rows, str)
    return {"views": [rows.to_json()]}


def of_set(artifacts: Artifacts) -> dict[str, Any]:
    return {
        "digest": "d" * 64,
        "url": artifacts.write_table(pl.DataFrame({"a": [1]}), FOLDER, "case", f"{'d' * 64}.parquet"),
    }


def ran(step: Step, artifacts: Artifacts, make: Any, meanwhile: Any = lambda: None) -> dict[str, Any]:
    def run(inputs: Any, where: Where) -> dict[str, Any]:
        made: dict[str, Any] = make(artifacts)
        meanwhile()
        return made

    return run_fenced(artifacts, replace(step, run=run), INPUTS, cast(Where, None))


@pytest.mark.parametrize(("step", "make"), [(FEATURES, of_view), (TRAINING_SET, of_set)])
def test_tables_that_were_written_while_somebody_was_erased_are_gone(step: Step, make: Any, tmp_path: Path) -> None:
    artifacts = Artifacts(str(tmp_path))
    begin_erasing(artifacts)  # an erasure of before is none of now
    assert ran(step, artifacts, make)
    assert list(tmp_path.rglob("*.parquet"))
    with pytest.raises(
        ConflictError, match=f"erased while step {step.name} ran.* What it wrote is deleted: run it again"
    ):
        ran(step, artifacts, make, lambda: begin_erasing(artifacts))
    assert not list(tmp_path.rglob("*.parquet"))
    assert ran(step, artifacts, make)


def test_whoever_filled_the_online_store_meanwhile_is_told_to_erase_again(tmp_path: Path) -> None:
    artifacts = Artifacts(str(tmp_path))
    with pytest.raises(
        ConflictError, match="may be in the online store again: run `mlops-ray data erase` for them again"
    ):
        ran(MATERIALIZE, artifacts, lambda artifacts: {"keys": {}}, lambda: begin_erasing(artifacts))


def test_the_steps_that_copy_rows_are_fenced_and_a_search_is_not() -> None:
    assert {name for name, step in PIPELINE.items() if step.rows_at} == {"features", "training_set", "materialize"}
