"""What does not fit in memory is fitted, judged and sealed a block at a time, and is the same version."""

from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from mlops_ray.artifacts import Artifacts, read_parquet
from mlops_ray.errors import ConfigurationError, DataError
from mlops_ray.features import blocks
from mlops_ray.features.columns import PREDICTION_TIME
from mlops_ray.features.definitions import Definitions
from mlops_ray.features.parts import Part
from mlops_ray.features.training_set import TrainingSet
from mlops_ray.pipeline import periods
from mlops_ray.pipeline.sealing import fit_score_and_seal
from mlops_ray.training import fitted_on
from mlops_ray.training.candidates import LightGBM, LogisticRegression
from mlops_ray.training.trial import Trial
from mlops_ray.use_case import BetterThanBaseline, Candidate, Fit, UseCase
from tests.integration.test_sealing import definitions, settings_of, trained, use_case

__all__ = ["definitions"]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

ENOUGH, LITTLE = 1 << 40, 2 << 30
TREES = {"learning_rate": 0.1, "iterations": 20, "num_leaves": 15, "min_data_in_leaf": 20}


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if values were so large that 2 GB hold a few hundred rows."""
    monkeypatch.setattr(blocks, "SLICE_ROWS", 300)
    monkeypatch.setattr(blocks, "_FEWEST_ROWS", 100)
    monkeypatch.setattr(fitted_on, "_BYTES_WHILE_WHOLE", 100_000)


def in_parts(folder: Path, training_set: TrainingSet) -> TrainingSet:
    """The same as three files in the order of time."""
    frame, artifacts = read_parquet(training_set.url), Artifacts(settings_of(folder).artifacts)
    edges, parts = [0, 500, 1300, frame.height], list[Part]()
    moments = frame[PREDICTION_TIME].sort()
    for number, (start, stop) in enumerate(pairwise(edges)):
        first, last = moments[start], moments[stop - 1]
        rows = frame.filter(frame[PREDICTION_TIME].is_between(first, last))
        url = artifacts.write_table(rows, "training_sets", "parts", f"part-{number:05}.parquet")
        parts.append(Part(url, rows.height, first, last))
    return replace(training_set, url=artifacts.url("training_sets", "parts"), parts=tuple(parts))


def seal(folder: Path, case: UseCase, training_set: TrainingSet, memory_bytes: int) -> dict[str, Any]:
    trial = Trial(
        case.candidates[0].name, 0, TREES if "lightgbm" in case.candidates[0].name else {"l2": 1e-4, "iterations": 30}
    )
    *_, sealed = fit_score_and_seal(case, settings_of(folder), training_set, trial, "run", memory_bytes)
    return sealed


def large_case(candidate: Candidate) -> UseCase:
    fit = Fit(calibration="platt", half_life=timedelta(days=90), held_out=0.2)
    return use_case(candidate, fit=fit, slices=("carrier",), gates=(BetterThanBaseline(by=("carrier",)),))


def test_from_blocks_of_files_the_same_version_is_sealed_as_from_memory(
    tmp_path: Path, definitions: Definitions
) -> None:
    case = large_case(LightGBM())
    training_set = trained(tmp_path, case, definitions)
    divided = in_parts(tmp_path, training_set)
    whole, found = seal(tmp_path, case, training_set, ENOUGH), seal(tmp_path, case, divided, LITTLE)
    assert "fitted_on" not in whole["evaluation"]
    said = found["evaluation"].pop("fitted_on")
    assert said["way"] == "blocks"
    assert said["words"].startswith(f"all {said['rows']:,} rows, a block at a time, as 2.1 GB of memory do not hold")
    for name in ("model.onnx", "schema.json"):
        assert found["files"].get(name) == whole["files"].get(name), name
    whole["evaluation"].pop("request_parity"), found["evaluation"].pop("request_parity")
    assert found["evaluation"] == whole["evaluation"]
    assert not list(tmp_path.glob("**/fits/departures/*"))


def test_a_candidate_that_needs_its_rows_at_once_is_fitted_to_a_sample_and_the_record_says_so(
    tmp_path: Path, definitions: Definitions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitted_on, "_FEWEST_ROWS", 500)
    monkeypatch.setattr(periods, "SOME_ROWS", 300)
    case = large_case(LogisticRegression())
    divided = in_parts(tmp_path, trained(tmp_path, case, definitions))
    found = seal(tmp_path, case, divided, LITTLE)["evaluation"]
    assert found["fitted_on"]["way"] == "sample"
    assert found["fitted_on"]["words"].startswith(f"a sample of {found['fitted_on']['rows']:,} of ")
    assert found["roc_auc"]["value"] > 0.7
    assert found["test_rows"] > 230


def test_a_file_of_the_training_set_that_is_gone_is_named(tmp_path: Path, definitions: Definitions) -> None:
    case = large_case(LightGBM())
    divided = in_parts(tmp_path, trained(tmp_path, case, definitions))
    Path(divided.parts[1].url).unlink()
    with pytest.raises(DataError, match=r"file .*part-00001\.parquet is gone .* from\s+training_set"):
        seal(tmp_path, case, divided, LITTLE)


def test_memory_too_small_for_a_batch_is_refused_with_what_is_needed(tmp_path: Path, definitions: Definitions) -> None:
    case = large_case(LightGBM())
    training_set = trained(tmp_path, case, definitions)
    with pytest.raises(
        ConfigurationError, match=r"400 MB of memory are not enough for one batch of .* at least \d+ MB"
    ):
        seal(tmp_path, case, training_set, 400_000_000)
    assert not list(tmp_path.rglob("model.onnx"))
