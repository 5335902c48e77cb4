"""A version's gates measured again: both results stay, the later counts, and nothing approved changes in silence."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

from mlops_ray.artifacts import Artifacts
from mlops_ray.cli.main import app
from mlops_ray.config import Settings
from mlops_ray.errors import ConfigurationError, ConflictError, ForbiddenError
from mlops_ray.governance.approvals import approve, request
from mlops_ray.governance.champion import retire, set_champion
from mlops_ray.governance.clearance import valid_approval
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import SYSTEM, Actor, read_events
from mlops_ray.governance.live import VersionRef, live
from mlops_ray.governance.versions import RegisteredVersion, list_versions
from mlops_ray.pipeline import measurement
from mlops_ray.pipeline.admission import Admission, admit, measure_again
from mlops_ray.pipeline.measurement import Registered
from mlops_ray.registry.lineage import write_lineage
from mlops_ray.registry.model_card import markdown_card
from mlops_ray.registry.trace import trace
from mlops_ray.testing.example_lineage import example_lineage
from mlops_ray.use_case import Approval, BetterThanChampion, Latency, NoVulnerability, Split, UseCase, Waiver
from tests.unit.test_admission import ANN, NOW, TEST_START, case, seal_model, training_set
from tests.unit.test_gates import EVALUATION
from tests.unit.test_governor import USE_CASE

NAME = USE_CASE.name
BOB = Actor("bob", ("approve",))
GATES = (Latency(limit_ms=1_000), BetterThanChampion(margin=-0.9))
PERIOD = {"test_period": {"start": TEST_START.isoformat(), "end": NOW.isoformat()}}


class Place:
    """A use case whose versions are registered as the pipeline does."""

    def __init__(self, folder: Path, store: ControlStore, settings: Settings):
        self.folder, self.store, self.settings = folder, store, settings
        self.artifacts = Artifacts(settings.artifacts)
        self.rows = training_set(folder)
        self.artifacts.write_table(pl.read_parquet(self.rows.url), "training_sets", NAME, f"{self.rows.digest}.parquet")

    def register(self, number: int, use_case: UseCase, turned: bool = False) -> Admission:
        folder = self.folder / "models" / str(number)
        digest = seal_model(folder, turned, salt=number)
        self.artifacts.upload(folder, "sealed_models", NAME, digest)
        lineage = example_lineage(
            NAME,
            digest,
            evaluation=EVALUATION.to_json() | PERIOD,
            training_set=self.rows.digest,
            as_of=NOW.isoformat(),
            declarations={"split": str(use_case.split)},
        )
        record = write_lineage(self.artifacts, lineage)
        given = Registered(VersionRef(number, digest), lineage.evaluation, self.rows, {"lineage": record}, "c" * 64)
        return admit(use_case, self.settings, ANN, folder, given)

    def version(self, number: int) -> RegisteredVersion:
        return next(one for one in list_versions(self.store, NAME) if one.version == number)

    def again(self, use_case: UseCase, number: int, reason: str = "the machine was busy", by: Actor = ANN) -> Admission:
        return measure_again(use_case, self.settings, by, number, reason)


@pytest.fixture
def place(tmp_path: Path, store: ControlStore) -> Place:
    settings = Settings(state=str(tmp_path), data=str(tmp_path), control_store=store.url)
    return Place(tmp_path, store, settings)


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A machine on which one row takes 5 s, until it is told that it is free."""
    real = measurement._row_latency_ms
    monkeypatch.setattr(measurement, "_row_latency_ms", lambda model: 5_000.0)
    return lambda: monkeypatch.setattr(measurement, "_row_latency_ms", real)


def test_one_slow_sample_does_not_block_a_version_for_good(place: Place, busy: Any) -> None:
    one = case(*GATES)
    assert "did not pass latency" in place.register(1, one).standing
    busy()
    found = place.again(one, 1)
    assert found.champion
    assert live(place.store, NAME).champion == place.version(1).ref
    assert place.version(1).failed_gates == ()
    (event,) = read_events(place.store, types=["version.measured"])
    assert (event.actor, event.reason) == ("ann", "the machine was busy")
    assert (event.before["failed_gates"], event.after["failed_gates"]) == (["latency"], [])
    kept = [e for e in read_events(place.store, types=["gate.passed", "gate.failed"]) if e.payload["gate"] == "latency"]
    assert [event.type for event in kept] == ["gate.failed", "gate.passed"]
    assert kept[0].payload["value"] == 5_000


def test_the_later_result_counts_also_where_it_is_worse(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    one = case(*GATES)
    place.register(1, one)
    place.register(2, one)
    assert place.version(2).failed_gates == ()
    monkeypatch.setattr(measurement, "_row_latency_ms", lambda model: 5_000.0)
    assert not place.again(one, 2, "is it as fast here?").champion
    assert place.version(2).failed_gates == ("latency",)


def test_the_card_shows_both_results_and_which_counts(place: Place, busy: Any) -> None:
    place.register(1, case(*GATES))
    busy()
    place.again(case(*GATES), 1)
    card = markdown_card(trace(place.settings, f"{NAME}@1"))
    assert "failed, measured again since" in card
    assert "| passed | The median time for one row" in card
    assert "version.measured" in card.replace("\\", "")
    assert "Decisions made on days of it so far, on this and other versions: 2." in card


def test_other_rules_need_another_version(place: Place, busy: Any) -> None:
    place.register(1, case(*GATES))
    with pytest.raises(ConflictError, match=r"judged by other gates .*limit_ms=100000"):
        place.again(case(Latency(limit_ms=100_000), GATES[1]), 1)
    assert place.version(1).failed_gates == ("latency",)
    assert read_events(place.store, types=["version.measured"]) == []


def test_a_waiver_is_no_other_rule(place: Place) -> None:
    """Somebody looked at the advisory since; the waiver has a reason and an end of its own."""
    place.register(1, case(NoVulnerability()))
    waived = NoVulnerability(waivers=(Waiver("CVE-1", NOW + timedelta(days=1), "not reached"),))
    place.again(case(waived), 1)
    assert len(read_events(place.store, types=["version.measured"])) == 1


def test_who_may_measure_and_why_is_asked(place: Place, store: ControlStore, busy: Any) -> None:
    one = case(*GATES)
    place.register(1, one)
    for nobody in (SYSTEM, Actor("eve", ("predict",))):
        with pytest.raises(ForbiddenError, match="carries none of the roles operate, approve, admin"):
            place.again(one, 1, by=nobody)
    with pytest.raises(ConfigurationError, match="Say why"):
        place.again(one, 1, reason=" ")
    with pytest.raises(ConfigurationError, match="no version 9"):
        place.again(one, 9)
    retire(store, ANN, NAME, 1, "it discriminates")
    with pytest.raises(ForbiddenError, match="was retired"):
        place.again(one, 1)
    assert place.version(1).failed_gates == ("latency",)


def test_a_version_of_another_split_is_not_measured_on_other_rows(place: Place) -> None:
    place.register(1, case(*GATES))
    other = replace(case(*GATES), split=Split(test=timedelta(days=7)))
    with pytest.raises(ConflictError, match="another split of time"):
        place.again(other, 1)


def test_what_was_approved_stays_what_it_is(place: Place, store: ControlStore) -> None:
    one = case(*GATES, approval=Approval())
    place.register(1, case(*GATES))
    place.register(2, one)
    place.register(3, one, turned=True)
    before = place.version(2)
    now = datetime.now(UTC)
    assert valid_approval(store, NAME, before.ref, now)  # by the second principal of a set-up for a single user
    place.again(one, 2)  # the same champion, so the same evidence
    assert place.version(2).evidence == before.evidence
    set_champion(store, ANN, NAME, place.version(3).ref, "another")
    with pytest.raises(ConflictError, match=r"has approved version 2 .* as it was measured"):
        place.again(one, 2)
    assert place.version(2) == before
    assert valid_approval(store, NAME, before.ref, now)
    assert len(read_events(store, types=["version.measured"])) == 1


def test_what_nobody_has_approved_is_asked_about_as_it_was_measured_last(place: Place, store: ControlStore) -> None:
    one = case(*GATES)
    for number in (1, 2, 3):
        place.register(number, one, turned=number == 3)
    before = place.version(2)
    set_champion(store, ANN, NAME, place.version(3).ref, "another")
    place.again(one, 2)
    after = place.version(2)
    assert after.evidence.evaluation != before.evidence.evaluation
    assert (after.evidence.model, after.evidence.materials) == (before.evidence.model, before.evidence.materials)
    request(store, ANN, NAME, 2)
    assert approve(store, BOB, NAME, 2, "looked at it").evidence == after.evidence
    (event,) = read_events(store, types=["version.measured"])
    assert event.payload["comparisons"]["roc_auc"]["difference"]["value"] > 0


def test_the_command_says_what_was_found_and_what_comes_next(
    place: Place, busy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLOPS_RAY_SETTINGS", str(tmp_path / "settings.yaml"))
    (tmp_path / "settings.yaml").write_text(f"control_store: {place.store.url}\n")
    file = tmp_path / "trains.py"
    file.write_text(
        "from tests.unit.test_measurement import GATES\n"
        "from tests.unit.test_admission import case\n"
        "use_case = case(*GATES)\n"
    )
    busy()
    place.register(1, case(*GATES))
    monkeypatch.setattr(measurement, "_row_latency_ms", lambda model: 5_000.0)
    place.register(2, case(*GATES))
    asked = ["versions", "measure", f"{NAME}@2", "--use-case", str(file), "--state", str(tmp_path), "--reason", "again"]
    slow = CliRunner().invoke(app, asked)
    assert slow.exit_code == 1
    assert "FAILED  latency: The median time for one row is 5e+03 ms" in slow.output
    busy()
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    assert "passed  latency" in done.output
    assert f"mlops-ray rollout start {NAME} 2" in done.output
    assert [event.actor for event in read_events(place.store, types=["version.measured"])] == ["development"] * 2
