"""A number and one of three classes go the way of a version: sealed, judged, approved, live, replaced, rolled back."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mlops_ray.artifacts import Artifacts
from mlops_ray.errors import ForbiddenError
from mlops_ray.features.definitions import Definitions, read_definitions
from mlops_ray.features.training_set import TrainingSet
from mlops_ray.governance.approvals import approve
from mlops_ray.governance.champion import set_champion
from mlops_ray.governance.control_store import ControlStore, open_store
from mlops_ray.governance.events import Actor
from mlops_ray.governance.keys import create_key
from mlops_ray.governance.live import VersionRef, live
from mlops_ray.governance.rollback import roll_back
from mlops_ray.pipeline.admission import Admission, admit
from mlops_ray.pipeline.measurement import Registered
from mlops_ray.pipeline.sealing import fit_score_and_seal
from mlops_ray.registry.lineage import write_lineage
from mlops_ray.registry.model_card import html_card, markdown_card
from mlops_ray.registry.trace import trace
from mlops_ray.tasks.task import Task
from mlops_ray.testing.example_lineage import example_lineage
from mlops_ray.training.candidates import LinearRegression, LogisticRegression
from mlops_ray.training.trial import Trial
from mlops_ray.use_case import (
    Approval,
    BetterThanBaseline,
    BetterThanChampion,
    Candidate,
    Column,
    Label,
    MultiClass,
    OnnxParity,
    Regression,
    Threshold,
    UseCase,
)
from tests.integration.test_sealing import DEFINITIONS, DEPARTURE, loaded, raw_rows, settings_of, trained, use_case

ANN, BOB = Actor("ann", ("operate",), id="ann"), Actor("bob", ("approve",), id="bob")
MINUTES = Regression("minutes", coverage=0.8, quantiles=(0.1, 0.9))
OUTCOME = MultiClass(("on time", "late", "cancelled"))


def rows() -> pl.DataFrame:
    """With a delay that goes with the wind, and what became of each departure."""
    random, made = np.random.default_rng(8), raw_rows()
    wind = made["wind"].fill_null(0.0).to_numpy()
    minutes = 20 * wind + random.normal(0, 10, made.height)
    names = np.where(minutes > 30, "cancelled", np.where(minutes > 0, "late", "on time"))
    known = pl.col("late").is_not_null()
    return made.with_columns(pl.Series("minutes", minutes), pl.Series("outcome", names)).with_columns(
        pl.when(known).then("minutes"), pl.when(known).then("outcome")
    )


def case_of(task: Task, candidate: Candidate, metric: str, floor: Threshold) -> UseCase:
    name, kind = ("minutes", "number") if task.kind == "regression" else ("outcome", "text")
    columns = (
        Column("carrier", "text", nullable=True),
        Column("departure", "timestamp"),
        Column("wind", "number", nullable=True),
        Column("booked_online", "boolean", nullable=True),
        Column("late", "boolean", nullable=True, outcome=True),
        Column(name, kind, nullable=True, outcome=True),
    )
    given = use_case(candidate)
    source = replace(given.sources["departures"], columns=columns)
    return use_case(
        candidate,
        sources={"departures": source},
        label=Label(name, pl.col(name), DEPARTURE + pl.duration(hours=1), task=task),
        metric=metric,
        approval=Approval(),
        gates=(OnnxParity(), floor, BetterThanBaseline(metric), BetterThanChampion(margin=0.0, metric=metric)),
    )


@pytest.fixture(scope="module")
def definitions(tmp_path_factory: pytest.TempPathFactory) -> Definitions:
    folder = tmp_path_factory.mktemp("repository")
    (folder / "views.py").write_text(DEFINITIONS)
    found = read_definitions(folder, "departures")
    assert found is not None
    return found


def admitted(case: UseCase, folder: Path, training_set: TrainingSet, version: int, l2: float) -> Admission:
    """What the pipeline's last steps make of a trial, without a search and without MLflow."""
    settings = settings_of(folder)
    trial = Trial(case.candidates[0].name, 0, {"l2": l2, "iterations": 30})
    *_, sealed = fit_score_and_seal(case, settings, training_set, trial)
    loaded(folder, sealed["digest"])
    evaluation, digest = sealed["evaluation"], sealed["digest"]
    lineage = replace(
        example_lineage("departures", digest, evaluation=evaluation, metric=case.metric), files=sealed["files"]
    )
    payload = {"lineage": write_lineage(Artifacts(settings.artifacts), lineage)}
    made = Registered(VersionRef(version, digest), evaluation, training_set, payload)
    return admit(case, settings, ANN, folder / "model", made)


def test_a_champion_without_quantiles_is_compared_by_what_both_have(tmp_path: Path, definitions: Definitions) -> None:
    case = case_of(MINUTES, LinearRegression(), "mean_absolute_error", Threshold("coverage", 0.7))
    before = replace(case, label=replace(case.label, task=replace(MINUTES, quantiles=())))
    create_key(open_store(settings_of(tmp_path)), Actor("root", ("admin",), id="root"), "ann", ["operate"])
    training_set = trained(tmp_path, case, definitions, rows())
    admitted(before, tmp_path, training_set, 1, l2=3.0)
    make_live(open_store(settings_of(tmp_path)), case, 1)
    after = replace(case, gates=(*case.gates, BetterThanChampion(metric="pinball_loss")))
    *others, last = admitted(after, tmp_path, training_set, 2, l2=1e-4).gates
    assert all(gate.passed for gate in others), others
    assert not last.passed
    assert "this version and the champion do not both have pinball_loss" in last.sentence


def make_live(store: ControlStore, case: UseCase, version: int) -> None:
    with pytest.raises(ForbiddenError):
        approve(store, ANN, case.name, version, "my own")
    asked = approve(store, BOB, case.name, version, "looked at the card")
    assert asked.state == "approved"
    set_champion(store, BOB, case.name, VersionRef(version, asked.evidence.model), "approved")


@pytest.mark.parametrize(
    "case",
    [
        case_of(MINUTES, LinearRegression(), "mean_absolute_error", Threshold("coverage", 0.7)),
        case_of(MINUTES, LinearRegression(), "pinball_loss", Threshold("coverage", 0.7)),
        case_of(OUTCOME, LogisticRegression(), "log_loss", Threshold("accuracy", 0.5)),
    ],
    ids=lambda case: f"{case.label.task.kind}-{case.metric}",
)
def test_a_better_version_replaces_the_first_once_approved_and_can_be_rolled_back(
    case: UseCase, tmp_path: Path, definitions: Definitions
) -> None:
    store = open_store(settings_of(tmp_path))
    create_key(store, Actor("root", ("admin",), id="root"), "ann", ["operate"])  # of several people none approves alone
    training_set = trained(tmp_path, case, definitions, rows())
    first = admitted(case, tmp_path, training_set, 1, l2=3.0)
    assert all(gate.passed for gate in first.gates)
    assert not first.champion
    make_live(store, case, 1)
    second = admitted(case, tmp_path, training_set, 2, l2=1e-4)
    assert all(gate.passed for gate in second.gates)
    worse = admitted(case, tmp_path, training_set, 3, l2=6.0)
    assert [gate.name for gate in worse.gates if not gate.passed] == [f"{case.metric} against the champion"]
    make_live(store, case, 2)
    state = live(store, case.name)
    assert state.champion is not None
    assert state.champion.version == 2
    back = roll_back(store, BOB, case.name, state.revision, 1, "the first was better").champion
    assert back is not None
    assert back.version == 1
    found = trace(settings_of(tmp_path), f"{case.name}@2")
    card = markdown_card(found).replace("\\", "")
    parts = [case.metric, "Importance of features", "Answers by wind", "the champion's", "bob", "champion"]
    if case.label.task.kind == "regression":
        parts += ["of the labels are in the interval of their answer", "| coverage |", "below that of 0.9"]
    for part in parts:
        assert part in card
    assert html_card(found).count("<svg ") >= 2
