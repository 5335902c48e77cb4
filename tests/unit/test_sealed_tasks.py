"""A model of numbers or classes is sealed with a reference, watched otherwise later, or comes from elsewhere."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.linear_model import LinearRegression, LogisticRegression

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import load_settings
from mlops_ray.errors import ConfigurationError, ModelError
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import Actor
from mlops_ray.monitoring.answers import EXPECTED, answer_in
from mlops_ray.monitoring.definition import defined_reference, find_sealed
from mlops_ray.monitoring.error_tree import foretell
from mlops_ray.monitoring.foreign_model import WithForeign, record_foreign
from mlops_ray.monitoring.reference import Reference
from mlops_ray.monitoring.reference_rows import ROWS_FILE, ReferenceRows
from mlops_ray.monitoring.sealed_reference import SealedReference, reference_files
from mlops_ray.registry.foreign_model import adapted
from mlops_ray.registry.model_schema import schema_of
from mlops_ray.testing.example_tasks import CLASSES, INPUTS, NUMBERS, SPEC, World
from mlops_ray.training.candidates import LogisticRegression as Candidate
from mlops_ray.use_case import Column, Label, Monitoring, Source, UseCase
from mlops_ray.use_case.window_spec import WindowSpec

WORLDS = pytest.mark.parametrize("world", [NUMBERS, CLASSES], ids=["numbers", "classes"])


def use_case(world: World, names: tuple[str, ...] = ("x", "hard", "c")) -> UseCase:
    kind = "number" if world.task.width == 1 else "text"
    columns = (
        Column("c", "text"), Column("time", "timestamp"), Column("x", "number"), Column("hard", "number"),
        Column("label", kind, outcome=True),  # type: ignore[arg-type]
    )  # fmt: skip
    return UseCase(
        name="things",
        sources={"things": Source("*.csv", columns)},
        entities=("c",),
        event_time="time",
        label=Label("label", pl.col("label"), pl.col("time"), task=world.task),
        candidates=(Candidate(),),
        metric=next(iter(world.task.metrics)),
        request_features={name: pl.col(name) for name in names},
        monitoring=Monitoring(windows=(SPEC,), false_alarm_days=30, slices=()),
    )


def sealed(world: World) -> dict[str, bytes]:
    case, rows = use_case(world), world.stream(60, 1, 0)
    held_out = rows.tail(40 * 120)
    answer = answer_in(held_out, world.task)
    schema = schema_of(case, INPUTS, rows)
    bare = held_out.drop(*world.task.ledger_types)
    return reference_files(case, schema, "time", rows.drop(*world.task.ledger_types), bare, answer, "label")


@WORLDS
def test_what_is_sealed_can_be_judged_by_other_windows_later(world: World) -> None:
    files = sealed(world)
    reference = Reference.from_files(files)
    assert reference.task == world.task
    found = SealedReference(reference, {}, use_case(world).monitoring, files[ROWS_FILE])
    other = WindowSpec(rows=480, minimum_rows=100)
    again = defined_reference(found, Monitoring(windows=(other,), false_alarm_days=30, slices=("c",)))
    assert set(again.windows) == {other.name}
    assert set(again.reliability) == {"all", "c=a", "c=b"}
    assert again.task == world.task
    assert again.estimator is not None
    assert reference.estimator is not None
    assert again.estimator.metric == reference.estimator.metric
    rows = world.stream(5, 2, 60)
    assert again.with_answers(rows)[EXPECTED].equals(reference.with_answers(rows)[EXPECTED])


@WORLDS
def test_sealed_rows_are_read_as_they_were_written(world: World) -> None:
    content = sealed(world)[ROWS_FILE]
    rows = ReferenceRows.from_bytes(content, world.task)
    assert rows.to_bytes() == content
    truth = world.stream(60, 1, 0).tail(40 * 120)
    assert rows.scored["label"].to_list() == truth["label"].to_list()
    assert np.array_equal(answer_in(rows.scored, world.task), answer_in(truth, world.task))


def test_a_label_that_is_not_known_is_none_of_the_sealed_rows() -> None:
    for world in (NUMBERS, CLASSES):
        case, rows = use_case(world), world.stream(60, 1, 0)
        some = pl.when(pl.int_range(pl.len()) % 3 > 0).then("label").alias("label")
        held_out = rows.tail(40 * 120).with_columns(some)
        answer, schema = answer_in(held_out, world.task), schema_of(case, INPUTS, rows)
        files = reference_files(case, schema, "time", rows, held_out, answer, "label")
        again = ReferenceRows.from_bytes(files[ROWS_FILE], world.task)
        assert again.scored["label"].to_list() == held_out["label"].to_list()


class Nothing:
    """A model registry that does not have it."""

    def find(self, name: str, version: int) -> Any:
        raise ConfigurationError(f"{name} has no version {version}.")

    def fetch(self, name: str, version: Any, folder: Path) -> Path:
        raise ConfigurationError("There is none.")


@WORLDS
def test_a_model_from_elsewhere_is_watched(world: World, store: ControlStore, tmp_path: Path) -> None:
    settings = load_settings(state=str(tmp_path), data=str(tmp_path), control_store=store.url)
    case, rows = use_case(world, ("x", "hard")), world.stream(40, 3, 0)
    fitted = (LinearRegression if world.task.width == 1 else LogisticRegression)()
    fitted.fit(rows.select("x", "hard").to_numpy(), rows["label"].to_numpy())
    options = None if world.task.width == 1 else {"zipmap": False}
    made = to_onnx(fitted, initial_types=[("X", FloatTensorType([None, 2]))], options=options).SerializeToString()
    record_foreign(settings, store, Actor("ann", ("operate",)), case, made, rows.drop(*world.task.ledger_types))
    found = find_sealed(WithForeign(Nothing(), store, Artifacts(settings.artifacts)), case.name, "1")
    assert isinstance(found, SealedReference)
    assert found.reference.task == world.task
    assert found.reference.estimator is not None
    wrong = replace(CLASSES.task, classes=("u", "v", "w", "z")) if world is CLASSES else CLASSES.task  # type: ignore[type-var]
    with pytest.raises(ModelError, match=r"it must be \[rows, "):
        adapted(made, INPUTS[:2], task=wrong)


def test_how_wrong_an_answer_is_expected_to_be_does_not_depend_on_its_own_label() -> None:
    rows = NUMBERS.stream(60, 5, 0)
    early = pl.int_range(pl.len()) < len(rows) // 2
    other = rows.with_columns(pl.when(early).then(pl.col("label") + 50).otherwise("label").alias("label"))
    said, again = (foretell(one, NUMBERS.task, INPUTS).scored for one in (rows, other))
    assert said.filter(early)[EXPECTED].equals(again.filter(early)[EXPECTED])
    assert not said.filter(~early)[EXPECTED].equals(again.filter(~early)[EXPECTED])
