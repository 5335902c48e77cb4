"""Admission: a registered version is live only if its gates and the people agree, and compared with the champion."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import polars as pl
import pytest
from onnx import numpy_helper

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings, load_settings
from mlops_ray.errors import ForbiddenError
from mlops_ray.features.columns import LABEL, LABEL_KNOWN_AT, PREDICTION_TIME
from mlops_ray.features.training_set import TrainingSet
from mlops_ray.governance.approvals import approve
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.development_keys import acting
from mlops_ray.governance.events import Actor, read_events
from mlops_ray.governance.keys import create_key
from mlops_ray.governance.live import Plan, VersionRef, live
from mlops_ray.governance.policies import Policy
from mlops_ray.governance.policy_changes import approve_change
from mlops_ray.governance.rollouts import start_rollout
from mlops_ray.pipeline.admission import Admission, admit, policy_of
from mlops_ray.pipeline.measurement import Registered
from mlops_ray.pipeline.pipeline import Pipeline
from mlops_ray.registry.bill_of_materials import document
from mlops_ray.registry.sealed_model import seal
from mlops_ray.testing.example_model import (
    FEATURES,
    example_answer,
    example_onnx,
    example_rows,
    example_schema,
)
from mlops_ray.use_case import Approval, BetterThanChampion, Gate, Split, Threshold, UseCase
from tests.unit.test_gates import EVALUATION
from tests.unit.test_governor import USE_CASE

NOW = datetime(2026, 3, 1, tzinfo=UTC)
TEST_START = NOW - timedelta(days=30)
ANN = Actor("ann", ("operate",))
OLD, NEW = VersionRef(1, "a" * 64), VersionRef(2, "b" * 64)
NOTHING = TrainingSet("", "", 0, NOW, "", None, ())


@pytest.fixture
def settings(store: ControlStore, tmp_path: Path) -> Settings:
    return load_settings(state=str(tmp_path), data=str(tmp_path), control_store=store.url)


def case(*gates: Gate, approval: Approval | None = None) -> UseCase:
    split = Split(test=timedelta(days=30), validation=timedelta(days=10))
    return replace(USE_CASE, gates=gates or (Threshold("roc_auc", 0.5),), approval=approval, split=split)


def registered(ref: VersionRef, training_set: TrainingSet = NOTHING) -> Registered:
    return Registered(ref, EVALUATION.to_json(), training_set, {"lineage": "l"})


def test_a_version_that_nobody_has_to_approve_is_champion(
    settings: Settings, store: ControlStore, tmp_path: Path
) -> None:
    found = admit(case(), settings, ANN, tmp_path, registered(OLD))
    assert (found.champion, found.approval, found.gates[0].passed) == (True, None, True)
    json.dumps(found.to_json())
    assert live(store, USE_CASE.name).champion == OLD
    payload: dict[str, object] = {"lineage": "l", "comparisons": {}, "gates": [repr(Threshold("roc_auc", 0.5))]}
    payload["signed"] = False
    assert read_events(store, types=["version.registered"])[0].payload == payload


def test_what_a_use_case_demands_is_what_the_control_store_keeps_to() -> None:
    hour = timedelta(hours=1)
    declared = Approval(
        min_rollout_steps=2, min_rollout=hour, max_error_rate=0.02, broken_glass_escalates_after=hour,
        broken_glass_ends_after=2 * hour, min_approvers=3,
    )  # fmt: skip
    month_s = timedelta(days=30).total_seconds()
    assert policy_of(case(approval=declared)) == Policy(
        True, "approve", True, month_s, 2, 3600, 0.02, 3600, 7200, min_approvers=3
    )
    assert policy_of(case(approval=Approval())) == Policy(required=True)


def test_a_single_user_is_two_development_principals(settings: Settings, store: ControlStore, tmp_path: Path) -> None:
    author = acting(store, settings, None)
    for _ in range(2):  # again after a crash
        found = admit(case(approval=Approval()), settings, author, tmp_path, registered(OLD))
        assert found.champion
        assert found.approval
        assert (found.approval.author, found.approval.decided_by) == ("development", "development_approver")
        assert "nobody has looked at it" in found.approval.reason
    assert len(read_events(store, types=["approval.approved", "champion.set"])) == 2


def test_where_others_are_a_version_waits_for_them(store: ControlStore, settings: Settings, tmp_path: Path) -> None:
    create_key(store, ANN, "bob", ["approve"])
    found = admit(case(approval=Approval()), settings, ANN, tmp_path, registered(OLD))
    assert found.approval
    assert (found.champion, found.approval.state) == (False, "requested")
    assert live(store, USE_CASE.name).champion is None


@pytest.mark.parametrize("roles", [("predict",), ("label", "approve", "audit"), (), ("system",)])
def test_who_does_not_operate_registers_nothing_and_changes_no_policy(
    store: ControlStore, settings: Settings, tmp_path: Path, roles: tuple[str, ...]
) -> None:
    with pytest.raises(ForbiddenError, match="needs the role 'operate'"):
        admit(case(approval=Approval()), settings, Actor("eve", roles, id="eve"), tmp_path, registered(OLD))
    assert read_events(store) == []


def test_a_key_of_role_predict_or_for_another_use_case_or_none_runs_no_pipeline(
    store: ControlStore, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [create_key(store, ANN, "eve", ["predict"]).secret, create_key(store, ANN, "ben", ["admin"], ["x"]).secret]
    pipeline = Pipeline(case(), settings, tmp_path)
    for secret in (*keys, None):
        monkeypatch.delenv("MLOPS_RAY_API_KEY", raising=False)
        if secret:
            monkeypatch.setenv("MLOPS_RAY_API_KEY", secret)
        with pytest.raises(ForbiddenError, match="needs the role 'operate'"):
            pipeline.run(until="register")
    assert live(store, USE_CASE.name).champion is None


def test_other_rules_than_are_in_force_wait_for_somebody_else_and_so_does_what_they_let_through(
    store: ControlStore, settings: Settings, tmp_path: Path
) -> None:
    create_key(store, ANN, "bob", ["approve"])
    admit(case(approval=Approval()), settings, ANN, tmp_path, registered(OLD))
    both = Actor("eve", ("operate", "approve"), id="eve")
    for laxer in (None, Approval(required=False), Approval(four_eyes=False), Approval(role="operate")):
        for author in (ANN, both):
            found = admit(case(approval=laxer), settings, author, tmp_path, registered(NEW))
            assert (found.champion, found.approval and found.approval.state) == (False, "requested")
            assert "Other rules or gates wait as well: mlops-ray approvals approve-rules " in found.standing
    assert live(store, USE_CASE.name).champion is None
    assert len(read_events(store, types=["policy.changed"])) == 1
    approve_change(store, Actor("bob", ("approve",), id="bob"), found.standing.split()[-1])
    assert read_events(store, types=["policy.changed"])[-1].actor == "bob"


def test_other_gates_than_are_in_force_wait_for_somebody_else(
    store: ControlStore, settings: Settings, tmp_path: Path
) -> None:
    create_key(store, ANN, "bob", ["approve"])
    bob = Actor("bob", ("approve",), id="bob")
    admit(case(Threshold("roc_auc", 0.99), approval=Approval()), settings, ANN, tmp_path, registered(OLD))
    laxer = case(Threshold("roc_auc", 0.1), approval=Approval())
    admit(laxer, settings, ANN, tmp_path, registered(NEW))
    approve(store, bob, USE_CASE.name, 2)
    found = admit(laxer, settings, ANN, tmp_path, registered(NEW))
    assert not found.champion
    assert "was judged by other gates than are in force" in found.standing
    approve_change(store, bob, found.standing.split()[-1])
    assert admit(laxer, settings, ANN, tmp_path, registered(NEW)).champion


def test_a_single_user_changes_rules_and_gates_and_the_audit_log_says_that_nobody_looked(
    settings: Settings, store: ControlStore, tmp_path: Path
) -> None:
    author = acting(store, settings, None)
    admit(case(approval=Approval()), settings, author, tmp_path, registered(OLD))
    found = admit(case(Threshold("roc_auc", 0.1), approval=None), settings, author, tmp_path, registered(NEW))
    assert found.standing.startswith("Version 2 waits beside version 1")
    changed = read_events(store, types=["policy.changed"])[-1]
    assert (changed.actor, changed.after) == ("development_approver", None)
    assert "nobody has looked at it" in changed.reason


def test_a_failed_gate_stops_a_version_unless_it_does_not_block(
    store: ControlStore, settings: Settings, tmp_path: Path
) -> None:
    assert admit(case(Threshold("roc_auc", 0.99, blocks=False)), settings, ANN, tmp_path, registered(OLD)).champion
    blocking = case(Threshold("roc_auc", 0.99), approval=Approval())
    found = admit(blocking, settings, ANN, tmp_path, registered(NEW))
    assert (found.champion, found.approval) == (False, None)
    assert live(store, USE_CASE.name).champion == OLD


def test_only_the_first_version_goes_live_by_itself(store: ControlStore, settings: Settings, tmp_path: Path) -> None:
    assert admit(case(), settings, ANN, tmp_path, registered(OLD)).standing == "Version 1 is champion."
    for _ in range(2):
        later = admit(case(), settings, ANN, tmp_path, registered(NEW))
        assert (later.champion, live(store, USE_CASE.name).champion) == (False, OLD)
        assert later.standing == (
            "Version 2 waits beside version 1, which stays champion: mlops-ray rollout start arrivals 2"
        )
    state = start_rollout(store, ANN, USE_CASE.name, NEW, Plan())
    assert state.rollout
    assert state.rollout.version == NEW
    assert admit(case(), settings, ANN, tmp_path, registered(OLD)).champion  # run again while it rolls out


def test_a_later_version_is_approved_and_still_waits_for_a_rollout(
    settings: Settings, store: ControlStore, tmp_path: Path
) -> None:
    author = acting(store, settings, None)
    for ref, champion in ((OLD, True), (NEW, False)):
        found = admit(case(approval=Approval()), settings, author, tmp_path, registered(ref))
        assert found.approval
        assert (found.approval.state, found.champion) == ("approved", champion)
    assert live(store, USE_CASE.name).champion == OLD


def test_the_champions_bytes_again_change_nothing(settings: Settings, store: ControlStore, tmp_path: Path) -> None:
    admit(case(approval=Approval()), settings, acting(store, settings, None), tmp_path, registered(OLD))
    before = live(store, USE_CASE.name)
    again = VersionRef(2, OLD.digest)
    found = admit(case(approval=Approval()), settings, ANN, tmp_path, registered(again))
    assert (found.champion, found.approval) == (False, None)
    assert found.standing == "Version 2 is the same model as version 1, which stays champion."
    assert live(store, USE_CASE.name) == before
    assert len(read_events(store, types=["approval.requested"])) == 1


# Against a real champion


def seal_model(folder: Path, turned: bool = False, salt: int = 0, until: datetime | None = TEST_START) -> str:
    """The example model, trained until `until`; turned: it answers 1 - p where the example answers p."""
    model = onnx.load_from_string(example_onnx())
    answers = [example_answer(row) for row in example_rows().to_dicts()]
    if turned:
        answers = [1 - answer for answer in answers]
        for constant in model.graph.initializer:
            if constant.name == "weights":
                constant.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(constant), "weights"))
    evaluation = {"salt": salt} | ({"trained_until": until.isoformat()} if until else {})
    bill = document({"numpy==2.0.0": []})
    parts = model.SerializeToString(), example_schema(), example_rows(), answers, evaluation
    return seal(folder, *parts, bill_of_materials=bill)


def seal_example(folder: Path) -> str:
    return seal_model(folder)


def seal_reversed(folder: Path) -> str:
    return seal_model(folder, turned=True)


def salted(folder: Path) -> str:
    return seal_model(folder, salt=1)


def training_set(folder: Path, rows: int = 3000) -> TrainingSet:
    """Three months of rows whose labels follow the example's probabilities."""
    random = np.random.default_rng(13)
    values = {"origin": random.choice(["EWR", "JFK", "LGA"], rows), "carrier": random.choice(["AA", "UA"], rows)}
    numbers = {"distance": (200, 2000), "hour": (5, 23), "recent_delay": (-20, 90)}
    values |= {name: random.uniform(*limits, rows) for name, limits in numbers.items()}
    frame = pl.DataFrame(values).select(feature.name for feature in FEATURES)
    probability = np.array([example_answer(row) for row in frame.to_dicts()])
    moments = [NOW - timedelta(days=90) * (1 - number / rows) for number in range(rows)]
    frame = frame.with_columns(
        pl.Series(LABEL, random.random(rows) < probability),
        pl.Series(PREDICTION_TIME, moments, pl.Datetime("us", "UTC")),
        pl.Series(LABEL_KNOWN_AT, moments, pl.Datetime("us", "UTC")),
    )
    frame.write_parquet(folder / "training_set.parquet")
    return TrainingSet(str(folder / "training_set.parquet"), "t" * 64, rows, NOW, "s" * 64, None, FEATURES)


@dataclass
class Contest:
    """Version 1 is champion; `enter` lets version 2 in where the gate allows it."""

    settings: Settings
    folder: Path
    rows: TrainingSet

    def version(self, number: int, seal_model: Callable[[Path], str]) -> VersionRef:
        folder = self.folder / "models" / str(number)
        digest = seal_model(folder)
        Artifacts(self.settings.artifacts).upload(folder, "sealed_models", USE_CASE.name, digest)
        return VersionRef(number, digest)

    def enter(self, champion: Callable[[Path], str], challenger: Callable[[Path], str], *gates: Gate) -> Admission:
        for number, seal_model in ((1, champion), (2, challenger)):
            ref = self.version(number, seal_model)
            folder = self.folder / "models" / str(number)
            found = admit(case(*gates), self.settings, ANN, folder, registered(ref, self.rows))
            if number == 1:
                assert (found.champion, "no champion to compare" in found.gates[0].sentence) == (True, True)
        return found


@pytest.fixture
def contest(settings: Settings, tmp_path: Path) -> Contest:
    return Contest(settings, tmp_path, training_set(tmp_path))


@pytest.mark.parametrize(
    ("champion", "challenger", "margin", "passes"),
    [
        (seal_reversed, seal_example, 0.0, True),
        (seal_reversed, seal_example, 0.9, False),
        (seal_example, seal_reversed, 0.0, False),
        (seal_example, seal_reversed, -0.9, True),
        (seal_example, salted, 0.0, False),  # the same answers are not better
        (seal_example, salted, -0.001, True),
    ],
)
def test_a_later_version_is_admitted_to_a_rollout_only_if_it_is_better_by_the_margin(
    contest: Contest, store: ControlStore, champion: Any, challenger: Any, margin: float, passes: bool
) -> None:
    found = contest.enter(champion, challenger, BetterThanChampion(margin))
    (gate,) = found.gates
    assert (gate.passed, found.champion) == (passes, False), gate.sentence
    assert ("mlops-ray rollout start arrivals 2" in found.standing) == passes
    assert gate.value is not None
    expected = {seal_reversed: -1, salted: 0}.get(challenger, 1)
    assert np.sign(gate.value) == expected
    state = live(store, USE_CASE.name)
    assert state.champion
    assert state.champion.version == 1
    assert passes or read_events(store, types=["gate.failed"])[0].reason == gate.sentence


def test_a_champion_that_cannot_be_asked_does_not_lose(contest: Contest) -> None:
    frame = pl.read_parquet(contest.rows.url)
    first = contest.version(1, seal_reversed)
    admit(case(), contest.settings, ANN, contest.folder, registered(first))
    frame.drop("recent_delay").write_parquet(contest.rows.url)  # the views have changed since
    second = contest.version(2, seal_example)
    found = admit(
        case(BetterThanChampion()), contest.settings, ANN, contest.folder / "models" / "2",
        registered(second, contest.rows),
    )  # fmt: skip
    assert (found.champion, found.gates[0].passed) == (False, False)
    assert "no longer has recent_delay" in found.gates[0].sentence


@pytest.mark.parametrize(
    ("trained_until", "passed", "said"),
    [
        (NOW - timedelta(days=90), True, "rows of 30 days"),
        (NOW - timedelta(days=12), True, "rows of 12 days"),  # the champion has seen the days before
        (NOW - timedelta(days=3), False, "not measured"),
        (NOW, False, "0 rows with 0 of 2 label values of the test period are later"),
        (None, False, "is not on record"),
    ],
)
def test_only_rows_after_the_training_of_both_are_compared(
    contest: Contest, trained_until: datetime | None, passed: bool, said: str
) -> None:
    def seal_champion(folder: Path) -> str:
        return seal_model(folder, turned=True, until=trained_until)

    (gate,) = contest.enter(seal_champion, seal_example, BetterThanChampion()).gates
    assert gate.passed is passed
    assert said in gate.sentence


def test_days_are_those_of_the_use_cases_zone(contest: Contest, store: ControlStore) -> None:
    """Rows every three quarters of an hour: 30 days in UTC touch 31 in Tokyo."""
    contest.version(1, seal_reversed)
    for zone, days in (("UTC", 30), ("Asia/Tokyo", 31)):
        first, second = contest.version(1, seal_reversed), contest.version(2, seal_example)
        one = replace(case(BetterThanChampion()), time_zone=zone)
        if live(store, USE_CASE.name).champion is None:
            admit(one, contest.settings, ANN, contest.folder / "models" / "1", registered(first, contest.rows))
        found = admit(one, contest.settings, ANN, contest.folder / "models" / "2", registered(second, contest.rows))
        assert f"rows of {days} days" in found.gates[0].sentence


def test_how_often_a_test_period_was_decided_on_is_counted_stored_and_said(
    settings: Settings, store: ControlStore, tmp_path: Path
) -> None:
    def tried(number: int, start: str, end: str) -> str:
        evaluation = EVALUATION.to_json() | {"test_period": {"start": start, "end": end}}
        ref = VersionRef(number, f"{number:064x}")
        found = admit(case(), settings, ANN, tmp_path, Registered(ref, evaluation, NOTHING, {}))
        return found.gates[0].sentence

    december = "2025-12-01T00:00:00+00:00", "2026-01-01T00:00:00+00:00"
    assert "Decision" not in tried(1, *december)
    assert "Decision 2 " in tried(2, *december)
    assert "Decision 2 " in tried(2, *december)  # again after a crash
    assert "Decision 3 " in tried(3, "2025-12-20T00:00:00+00:00", "2026-01-20T00:00:00+00:00")
    assert "Decision" not in tried(4, "2026-02-01T00:00:00+00:00", "2026-03-01T00:00:00+00:00")
    stored = [event.payload["test_period"]["decision"] for event in read_events(store, types=["version.registered"])]
    assert stored == [1, 2, 3, 1]
