"""Every type of event, fired by what fires it in practice: its state, its audit record, its delivered notification."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from sqlalchemy import update

from mlops_ray.artifacts import Artifacts
from mlops_ray.catalogue.erase import erase_person_from_data
from mlops_ray.catalogue.person import Person
from mlops_ray.catalogue.retire import retire as retire_snapshot
from mlops_ray.catalogue.tables import hand_out
from mlops_ray.config import load_settings
from mlops_ray.cost.stall import say_stalled
from mlops_ray.errors import ForbiddenError, UnavailableError
from mlops_ray.evaluation.gates import Measured, judge
from mlops_ray.features.parity import FeatureParity
from mlops_ray.governance import schedule_runs, schedules
from mlops_ray.governance.alarms import alarms_of, open_alarms, raise_alarm, resolve_alarm, silence_alarm, worsen_alarm
from mlops_ray.governance.anchors import anchor, read_anchors
from mlops_ray.governance.approvals import approve, attach, expire, list_approvals, reject, request, revoke
from mlops_ray.governance.audit import check, verify_store
from mlops_ray.governance.budgets import Budget, say_exceeded, say_warned, set_budget
from mlops_ray.governance.champion import break_glass, retire, set_champion
from mlops_ray.governance.channels import Channels
from mlops_ray.governance.clearance import expect_servable
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.declared_resources import Resources, declare_resources
from mlops_ray.governance.delegations import delegate, end_delegation
from mlops_ray.governance.development_keys import development_key
from mlops_ray.governance.erasures import erase_person as erase_person_from_audit
from mlops_ray.governance.events import EVENT_TYPES, Actor, Event, read_events
from mlops_ray.governance.freshness import report_freshness
from mlops_ray.governance.inventory import Declared, announce_overdue, declare, inventory, review
from mlops_ray.governance.keys import create_key, list_keys, revoke_key
from mlops_ray.governance.live import Plan, Step, VersionRef, live
from mlops_ray.governance.measurements import RULES, record_measurement
from mlops_ray.governance.missing_ledger import report_missing
from mlops_ray.governance.monitoring_changes import set_definition
from mlops_ray.governance.monitoring_definitions import definition_of
from mlops_ray.governance.notifications import deliver_once, subscribe, waiting
from mlops_ray.governance.policies import Policy
from mlops_ray.governance.policy_changes import PolicyChange, approve_change, reject_change, set_policy
from mlops_ray.governance.replicas import Replica, Unmoved, heard, report
from mlops_ray.governance.retrainings import FINISHED, history
from mlops_ray.governance.rollback import roll_back
from mlops_ray.governance.rollouts import pause, promote, resume, start_rollout
from mlops_ray.governance.schema import UPGRADED
from mlops_ray.governance.tables import outbox, replicas, versions
from mlops_ray.governance.unwatched import report_unwatched
from mlops_ray.governance.verdicts import Approval, Report
from mlops_ray.governance.versions import Evidence, list_versions, record_version
from mlops_ray.ingestion.snapshot import LineCounts, Snapshot, SourceCounts
from mlops_ray.operations.backup.create import create
from mlops_ray.operations.backup.place import Place
from mlops_ray.operations.backup.restore import RESTORED
from mlops_ray.operations.backup.retention import Keep, prune
from mlops_ray.operations.upgrade import upgrade
from mlops_ray.pipeline.served_parity import ServedParity, report_failed
from mlops_ray.predictions.erasure import erase_person
from mlops_ray.predictions.ids import uuid7_at
from mlops_ray.predictions.segments import segments, write_segment
from mlops_ray.registry.bill_of_materials import document
from mlops_ray.registry.lineage import write_lineage
from mlops_ray.registry.sealed_model import load, seal
from mlops_ray.registry.vulnerabilities import rescan
from mlops_ray.retraining.governor import Governor
from mlops_ray.serving.auth import Guard
from mlops_ray.serving.follower import Follower
from mlops_ray.serving.predictor import Predictor
from mlops_ray.serving.served_version import ServedVersion
from mlops_ray.tasks.binary import BINARY
from mlops_ray.testing.example_lineage import example_lineage
from mlops_ray.testing.example_model import example_answer, example_onnx, example_reader, example_rows, example_schema
from mlops_ray.use_case import Threshold
from tests.older_store import store_of_schema
from tests.unit.test_gates import EVALUATION
from tests.unit.test_governor import USE_CASE, Cluster
from tests.unit.test_notifications import Server
from tests.unit.test_vulnerabilities import ADVISORY

ANN, BOB, EVE = Actor("ann", ("operate",)), Actor("bob", ("approve",)), Actor("eve", ("operate",))
ROOT = Actor("root", ("admin",))
CAT, DAN = Actor("cat", ("approve",), id="cat"), Actor("dan", ("predict",), id="idp|dan")
NAME = USE_CASE.name
PLAN = Plan((Step("canary", 0.5, 3600),))
GATES = (Threshold("roc_auc", 0.5), Threshold("roc_auc", 1.1, blocks=False))
MONTH = timedelta(days=31)


@pytest.fixture
def receiver() -> Iterator[Server]:
    server = Server()
    yield server
    server.shutdown()
    server.server_close()


class Platform:
    """A use case with a replica, a governor, advisories and a subscriber to everything."""

    def __init__(self, folder: Path, store: ControlStore, receiver: Server):
        self.store, self.folder, self.receiver, self.seen = store, folder, receiver, list[Event]()
        (folder / "advisories.json").write_text(json.dumps([ADVISORY]))
        self.settings = load_settings(
            state=str(folder), data=str(folder), control_store=store.url, advisories=f"{folder}/advisories.json"
        )
        self.channels = Channels(("127.0.0.1",))
        subscribe(store, ANN, self.channels, f"http://127.0.0.1:{receiver.server_port}/all")
        self.follower = Follower(store, NAME, "replica", "node", self._load, Guard(NAME, {}))
        self.cluster = Cluster(self.settings)
        self.governor = Governor(USE_CASE, self.settings, self.cluster, lambda since, until: 50_000)

    def _load(self, version: VersionRef) -> ServedVersion:
        model = load(self.folder / "sealed" / str(version.version), version.digest)
        return ServedVersion(NAME, str(version.version), Predictor(model, example_reader()))

    def register(self, number: int) -> VersionRef:
        """As the pipeline does, with an environment that has a known vulnerability."""
        folder, rows = self.folder / "sealed" / str(number), example_rows()
        answers = [example_answer(row) for row in rows.to_dicts()]
        bill = document({"jinja2==2.11.2": []})
        digest = seal(folder, example_onnx(), example_schema(), rows, answers, {"n": number}, bill_of_materials=bill)
        artifacts = Artifacts(self.settings.artifacts)
        artifacts.upload(folder, "sealed_models", NAME, digest)
        record = write_lineage(artifacts, example_lineage(NAME, digest))
        results = judge(GATES, Measured(BINARY, EVALUATION), datetime.now(UTC))
        payload = {"lineage": record, RULES: ["rules"]}
        record_version(self.store, ANN, NAME, number, Evidence(digest, "e"), results, payload)
        return VersionRef(number, digest)

    def approval(self, number: int) -> Approval:
        return next(one for one in list_approvals(self.store, NAME) if one.version == number)

    def approve(self, number: int) -> VersionRef:
        request(self.store, ANN, NAME, number)
        ref = approve(self.store, BOB, NAME, number, "looked at it").ref
        self.told("approval.requested", "approval.approved")
        return ref

    def told(self, *types: str) -> list[Event]:
        """What happened since the last call: exactly these types, in the audit log and at the receiver."""
        events = read_events(self.store, self.seen[-1].seq if self.seen else 0)
        assert [event.type for event in events] == list(types)
        self.receiver.received.clear()
        while deliver_once(self.store, datetime.now(UTC) + 2 * MONTH, self.channels.send).delivered:
            pass
        sent = {one["id"]: one for one in (json.loads(body) for _, _, body in self.receiver.received)}
        assert {id: one["data"] for id, one in sent.items()} == {
            event.id: json.loads(json.dumps(event.to_json())) for event in events
        }
        assert all(event.actor and event.roles and event.subject for event in events)
        self.seen += events
        return events


@pytest.fixture
def platform(tmp_path: Path, store: ControlStore, receiver: Server) -> Platform:
    return Platform(tmp_path, store, receiver)


def test_every_type_of_event_has_its_state_its_record_and_its_notification(platform: Platform) -> None:
    platform.told("policy.changed")  # the subscription itself
    keys(platform)
    versions_and_approvals(platform)
    rollouts(platform)
    end_of_a_version(platform)
    monitoring(platform)  # before a challenger waits
    several_people(platform)
    reviews(platform)
    features(platform)
    data(platform)
    erasure(platform)
    advisories_and_audit(platform)
    due_by_the_clock(platform)
    money(platform)
    backups(platform)
    subscribers(platform)
    assert {event.type for event in platform.seen} == set(EVENT_TYPES) - {UPGRADED, RESTORED}  # of another store
    assert waiting(platform.store) == []


def test_an_upgrade_is_told_to_who_subscribed_before(url: str, tmp_path: Path, receiver: Server) -> None:
    store = store_of_schema(url, "0007")
    with store.transaction() as connection:  # as that release wrote it
        connection.exec_driver_sql(
            "INSERT INTO subscriptions (id, types, minimum_severity, channel, secret, created_at, created_by) VALUES "
            f"('s', '[]', 'info', 'http://127.0.0.1:{receiver.server_port}/all', 'whsec_{'A' * 32}', "
            "'2030-01-01 00:00:00+00:00', 'ann')"
        )
    settings = load_settings(state=str(tmp_path / "state"), data=str(tmp_path), control_store=url)
    upgrade(settings, lambda _: ANN)
    (made,) = read_events(store)
    assert (made.type, made.actor) == (UPGRADED, "ann")
    assert deliver_once(store, datetime.now(UTC), Channels(("127.0.0.1",)).send).delivered == 1
    (told,) = (json.loads(body)["data"] for _, _, body in receiver.received)
    assert told == json.loads(json.dumps(made.to_json()))
    store.close()


def test_a_retired_challenger_does_not_hold_up_the_governor(platform: Platform) -> None:
    store, now = platform.store, datetime.now(UTC)
    set_champion(store, ANN, NAME, platform.register(1), "first")
    raise_alarm(store, NAME, 1, "a1", "Drift of hour", "warning", now, {"question": "concept"})
    platform.governor.round(now)
    platform.register(2)
    retire(store, ANN, NAME, 2, "it discriminates")
    platform.cluster.end("better", 2)
    platform.governor.round(now + timedelta(hours=1))
    assert [event.type for event in history(store, NAME)][-2:] == [FINISHED, "retraining.decided"]
    assert list_approvals(store) == []


def keys(platform: Platform) -> None:
    development_key(platform.store, platform.settings)
    platform.told("key.created")
    create_key(platform.store, ANN, "ci", ["predict"])
    assert [key.revoked_at is None for key in list_keys(platform.store)] == [False, True]
    platform.told("key.revoked", "development.ended", "key.created")
    revoke_key(platform.store, ANN, "ci", "lost")
    assert list_keys(platform.store)[1].revoked_at is not None
    (event,) = platform.told("key.revoked")
    assert (event.before["revoked_at"], event.after["revoked_at"] is None) == (None, False)


def versions_and_approvals(platform: Platform) -> None:
    store, now = platform.store, datetime.now(UTC)
    set_policy(store, ANN, NAME, Policy(required=True))
    (event,) = platform.told("policy.changed")
    assert event.after["required"]
    for number in (1, 2, 3, 4):
        platform.register(number)
        assert [(one.version, one.failed_gates) for one in list_versions(store, NAME)][-1] == (number, ())
        registered, passed, failed = platform.told("version.registered", "gate.passed", "gate.failed")
        assert registered.after["author"] == "ann"
        assert passed.payload["value"] == failed.payload["value"] == EVALUATION["roc_auc"].value
    slow = judge((Threshold("roc_auc", 0.5), Threshold("roc_auc", 1.1)), Measured(BINARY, EVALUATION), now)
    evidence = list_versions(store, NAME)[0].evidence
    record_measurement(store, ANN, NAME, 1, evidence, slow, ["rules"], "the machine was busy")
    assert list_versions(store, NAME)[0].failed_gates == (slow[1].name,)
    event, *_ = platform.told("version.measured", "gate.passed", "gate.failed")
    assert (event.before["failed_gates"], event.after["failed_gates"]) == ([], [slow[1].name])
    results = judge(GATES, Measured(BINARY, EVALUATION), now)
    record_measurement(store, ANN, NAME, 1, evidence, results, ["rules"], "it is free")
    platform.told("version.measured", "gate.passed", "gate.failed")
    request(store, ANN, NAME, 1)
    assert platform.approval(1).state == "requested"
    platform.told("approval.requested")
    reject(store, BOB, NAME, 1, "worse at night")
    assert platform.approval(1).state == "rejected"
    platform.told("approval.rejected")
    request(store, ANN, NAME, 1)
    assert [one.state for one in expire(store, now + MONTH)] == ["expired"]
    assert platform.approval(1).state == "expired"
    platform.told("approval.requested", "approval.expired")
    request(store, ANN, NAME, 1)
    approve(store, BOB, NAME, 1, "looked at it")
    assert platform.approval(1).decided_by == "bob"
    *_, event = platform.told("approval.requested", "approval.approved")
    assert (event.actor, event.before["state"], event.after["state"]) == ("bob", "requested", "approved")


def several_people(platform: Platform) -> None:
    store, two = platform.store, Policy(required=True, min_approvers=2)
    change = set_policy(store, ANN, NAME, two)
    assert change
    assert reject_change(store, BOB, change.id, "one is enough").state == "rejected"
    platform.told("policy.requested", "policy.rejected")
    change = set_policy(store, ANN, NAME, two)
    assert change
    assert approve_change(store, BOB, change.id).state == "in_force"
    *_, event = platform.told("policy.requested", "policy.approved", "policy.changed")
    assert event.after["min_approvers"] == 2
    platform.register(5)
    request(store, ANN, NAME, 5)
    attach(store, ANN, NAME, 5, Report("found.pdf", "f" * 64, 7, "ann", None, datetime.now(UTC)))
    given = delegate(store, CAT, NAME, "idp|dan", datetime.now(UTC) + MONTH, "away")
    assert approve(store, DAN, NAME, 5).state == "requested"
    assert end_delegation(store, CAT, given.id, "back").ended_at
    seen = "version.registered", "gate.passed", "gate.failed", "approval.requested", "approval.reported"
    platform.told(*seen, "delegation.given", "approval.agreed", "delegation.ended")
    change = set_policy(store, ANN, NAME, Policy(required=True))
    assert change
    for approver in (BOB, CAT):
        approve_change(store, approver, change.id)
    platform.told("policy.requested", "policy.approved", "policy.approved", "policy.changed")


def rollouts(platform: Platform) -> None:
    store, follower = platform.store, platform.follower
    follower.prepare()  # the first approved version begins
    one = platform.approval(1).ref
    assert live(store, NAME).champion == one
    platform.told("champion.set")
    two, three = platform.approve(2), platform.approve(3)
    damaged = platform.folder / "sealed" / "3" / "model.onnx"
    damaged.write_bytes(damaged.read_bytes()[:-10])
    start_rollout(store, ANN, NAME, three, PLAN)
    follower.follow_once()
    assert (live(store, NAME).champion, live(store, NAME).rollout) == (one, None)
    assert "model.onnx" in heard(store, NAME).replicas[0].failed[three]
    *_, event = platform.told("rollout.started", "version.load_failed", "rollout.failed")
    assert (event.subject, event.before["rollout"]["state"], event.after["rollout"]) == (f"{NAME}@3", "loading", None)
    start_rollout(store, ANN, NAME, two, PLAN)
    follower.follow_once()
    running = live(store, NAME).rollout
    assert running
    assert running.current == PLAN.steps[0]
    platform.told("rollout.started", "rollout.step")
    held = pause(store, ANN, NAME, live(store, NAME).revision, 2, "wait")
    follower.follow_once()
    assert resume(store, ANN, NAME, held.revision, 2, "go on").rollout == running
    platform.told("rollout.paused", "rollout.resumed")
    state = promote(store, ANN, NAME, running, "enough seen")
    assert (state.champion, state.previous) == (two, one)
    platform.told("rollout.promoted")
    assert roll_back(store, ANN, NAME, state.revision, 1, "complaints").champion == one
    platform.told("rollout.rolled_back")


def end_of_a_version(platform: Platform) -> None:
    store, two = platform.store, platform.approval(2).ref
    revoke(store, BOB, NAME, 2, "complaints")
    assert platform.approval(2).state == "revoked"
    platform.told("approval.revoked")
    retire(store, ANN, NAME, 2, "it discriminates")
    assert list_versions(store, NAME)[1].retired_at
    with pytest.raises(ForbiddenError, match="was retired"):
        expect_servable(store, NAME, two)
    (event,) = platform.told("version.retired")
    assert (event.before["retired_at"], event.after["retired_at"] is None) == (None, False)
    assert break_glass(store, EVE, NAME, 4, "fire").champion == platform.approval(4).ref
    *_, event, _ = platform.told("approval.requested", "break_glass", "champion.set")
    assert (event.severity, event.reason) == ("critical", "fire")


def monitoring(platform: Platform) -> None:
    store, now = platform.store, datetime.now(UTC)
    asked = set_definition(store, ANN, NAME, {"false_alarm_days": 60}, "too many alarms")
    assert isinstance(asked, PolicyChange)
    assert definition_of(store, NAME) is None
    approve_change(store, BOB, asked.id, "they are")
    made = definition_of(store, NAME)
    assert made is not None
    assert (made.revision, made.reason) == (1, "they are")
    *_, event = platform.told("policy.requested", "policy.approved", "monitoring.changed")
    assert event.payload == {"change": asked.id}
    raise_alarm(store, NAME, 4, "a1", "Drift of hour", "warning", now, {"question": "concept"})
    assert open_alarms(store, NAME, 4, now) == ["Drift of hour"]
    platform.told("alarm.raised")
    platform.governor.round(now)
    assert len(platform.cluster.orders) == 1
    platform.told("retraining.decided")
    worse = {"question": "concept", "window": {"end": now}}
    worsen_alarm(store, NAME, 4, "a1", "Drift of hour and more", "critical", worse)
    platform.told("alarm.worsened")
    silence_alarm(store, ANN, NAME, "a1", "a strike", now + MONTH, now)
    assert open_alarms(store, NAME, 4, now) == []
    platform.told("alarm.silenced")
    resolve_alarm(store, NAME, "a1", "over", {})
    assert alarms_of(store, NAME)[0].resolved_at
    platform.told("alarm.resolved")
    platform.cluster.end("worse", None)
    platform.governor.round(now + timedelta(hours=1))
    assert [event.payload["outcome"] for event in history(store, NAME) if event.type == FINISHED] == ["worse"]
    assert platform.told("retraining.finished", "retraining.decided")[0].subject == f"retraining {NAME}"


def features(platform: Platform) -> None:
    given = platform.store, NAME, "weather"
    assert [report_freshness(*given, stale, "7 h old", {}) for stale in (False, True, True, False, False)] == [
        False, True, False, True, False,
    ]  # fmt: skip
    platform.told("feature.stale", "feature.fresh")
    now = datetime.now(UTC)
    half = FeatureParity("temp", "weather", exact=1, wrong=1)
    found = ServedParity(NAME, now, now, 2, 2, (half,), ("View weather: a clock.",), (), ())
    assert [report_failed(platform.store, found, limit) for limit in (0.5, 0.4)] == [False, True]
    (event,) = platform.told("parity.failed")
    assert event.reason == "50.00% of 2 served feature values differ (limit 40.00%). View weather: a clock."


def data(platform: Platform) -> None:
    """A snapshot that lost a person, and then all its rows."""
    settings, now = platform.settings, datetime.now(UTC)
    snapshot, row = "5" * 64, {"person": ["N7CANARY", "P1"]}
    artifacts = Artifacts(settings.artifacts)
    artifacts.write_table(pl.DataFrame(row), "snapshots", NAME, snapshot, "s", "accepted", "part-0.parquet")
    counts = SourceCounts(2, 2, 0, 0, 0, {}, {}, LineCounts(0, 0, 2, 0, 0))
    kept = Snapshot(NAME, snapshot, now, "c", "v", {"s": counts}, {"s": {"quarantined": "q"}}, {"s": {}})
    artifacts.write_json(asdict(kept) | {"as_of": now.isoformat()}, "snapshots", NAME, snapshot, "manifest.json")
    hand_out(artifacts, platform.store, ANN, NAME, snapshot, "s", "part-0.parquet")
    (event,) = platform.told("data.read")
    assert (event.actor, event.payload["table"]) == (ANN.name, "part-0.parquet")
    erase_person_from_data(settings, platform.store, ANN, Person("person", "N7CANARY"), "request 17")
    (event,) = platform.told("data.erased")
    assert "N7CANARY" not in json.dumps(event.to_json())
    assert event.payload["snapshots"] == {f"{NAME}/{snapshot}": 1}
    retire_snapshot(settings, platform.store, ANN, NAME, snapshot, "nobody needs it")
    (event,) = platform.told("data.retired")
    assert event.payload["digest"] == snapshot


def reviews(platform: Platform) -> None:
    store, now = platform.store, datetime.now(UTC)
    declare(store, ANN, NAME, Declared("ann", "delays", "limited", review_every_s=86_400))
    (event,) = platform.told("use_case.declared")
    assert (event.before, event.after["tier"]) == (None, "limited")
    assert announce_overdue(store, now + MONTH) == [NAME]
    platform.told("review.overdue")
    review(store, BOB, NAME, "looked at the slices")
    (event,) = platform.told("use_case.reviewed")
    assert (event.actor, event.reason) == ("bob", "looked at the slices")
    (entry,) = inventory(store, now)
    assert (entry.reviewed_by, entry.is_overdue(now)) == ("bob", False)


def erasure(platform: Platform) -> None:
    """The log says that something was erased, and how much, but not whose."""
    hash = "0123456789abcdef" * 2
    answered = {"request_id": "r", "row": 0, "time": datetime.now(UTC), "version": "1", "key.customer": hash}
    rows = pl.DataFrame([answered], schema_overrides={"row": pl.Int32})
    write_segment(Artifacts(platform.settings.artifacts), NAME, uuid7_at(0), rows)
    erase_person(platform.settings, platform.store, ANN, NAME, hash)
    assert segments(Artifacts(platform.settings.artifacts), NAME) == []
    (event,) = platform.told("ledger.erased")
    assert event.payload == {"predictions": 1, "labels": 0, "damaged_files": 0}
    assert hash not in json.dumps(event.to_json())
    report(platform.store, NAME, Replica("lost", "node", 1, unmoved=Unmoved("disk", 20.0)))
    with platform.store.reporting() as connection:
        long_ago = datetime.now(UTC) - timedelta(minutes=2)
        connection.execute(update(replicas).where(replicas.c.id == "lost").values(seen_at=long_ago))
    report_missing(platform.store, NAME)
    (event,) = platform.told("ledger.missing")
    assert event.payload["disk"] == "disk"
    assert [report_unwatched(platform.store, NAME, "format 9") for _ in range(2)] == [True, False]
    platform.told("monitoring.stopped")


def advisories_and_audit(platform: Platform) -> None:
    found = rescan(platform.settings, platform.store)
    assert {one.version: one.new for one in found} == dict.fromkeys((4, 1), ("GHSA-test-0001 (high) in jinja2 2.11.2",))
    platform.told("vulnerability.found", "vulnerability.found")
    made = anchor(platform.store, platform.settings)
    (event,) = platform.told("audit.anchored")
    assert made is not None
    assert (made.seq, made.hash) == (event.seq, event.hash)
    assert read_anchors(platform.settings.audit_anchors) == [made]
    assert verify_store(platform.store, platform.settings).not_anchored == ()
    assert check(platform.store, platform.settings).problem is None
    platform.told()
    (in_the_way := platform.folder / "second").write_text("a file")
    with pytest.raises(UnavailableError, match="cannot be used"):
        anchor(platform.store, platform.settings.model_copy(update={"audit_second_place": str(in_the_way)}))
    platform.told("audit.delayed")
    done = erase_person_from_audit(platform.store, ROOT, EVE.name, "request 17")
    (event,) = platform.told("audit.erased")
    assert event.payload["pseudonym"] == done.pseudonym
    with platform.store.transaction() as connection:
        connection.execute(update(versions).where(versions.c.version == 1).values(author="eve"))
    assert not check(platform.store, platform.settings).ok
    (event,) = platform.told("audit.failed")
    assert event.reason.startswith("Table versions, row ")


def due_by_the_clock(platform: Platform) -> None:
    store = platform.store
    schedules.declare(store, ANN, NAME, NAME, "/repo", (schedules.Wanted("audit", "* * * * *", "UTC", False),))
    (event,) = platform.told("schedule.changed")
    assert event.after == {"audit": "* * * * * UTC"}
    run = schedule_runs.ask(store, NAME, "audit", datetime.now(UTC))
    schedule_runs.end(store, run, False, "no disk")
    (event,) = platform.told("schedule.failed")
    assert (event.reason, event.payload["operation"]) == ("no disk", "audit")


def money(platform: Platform) -> None:
    store, budget = platform.store, Budget(NAME, "2026-11", 10.0, "EUR")
    set_budget(store, ANN, budget, "new")
    (event,) = platform.told("budget.changed")
    assert event.after == {"amount": 10.0, "currency": "EUR", "warn_at": 0.8}
    say_warned(store, budget, "2026-11", 8.5)
    say_warned(store, budget, "2026-11", 8.6)
    (event,) = platform.told("budget.warned")
    assert event.payload["spent"] == 8.5
    say_exceeded(store, budget, "2026-11", 10.5, "run")
    (event,) = platform.told("budget.exceeded")
    assert event.payload["run"] == "run"
    say_stalled(store, NAME, "run", "There was no progress.", 60.0)
    (event,) = platform.told("run.stalled")
    assert event.payload == {"run": "run", "limit_s": 60.0}
    declare_resources(store, ANN, NAME, {"train": Resources(1.0)}, "measured")
    (event,) = platform.told("resources.changed")
    assert event.after == {"cpus": 1.0}


def backups(platform: Platform) -> None:
    place = Place(f"{platform.folder} backups")
    first = create(platform.settings, ROOT, place)
    create(platform.settings, ROOT, place)
    event, _ = platform.told("backup.created", "backup.created")
    assert (event.subject, event.payload["place"]) == (f"backup {first.id}", place.root)
    prune(platform.settings, ROOT, place, Keep(0, 0, 0))
    (event,) = platform.told("backup.pruned")
    assert event.payload["backups"] == [first.id]


def subscribers(platform: Platform) -> None:
    """One that is gone, and an event that somebody made unreadable while it waited."""
    store, gone = platform.store, Server()
    gone.status, there = 410, f"http://127.0.0.1:{gone.server_port}/"
    subscribe(store, ANN, platform.channels, there, types=["policy.changed"])

    def send_there_only(channel: str, secret: str, event: Event) -> None:
        if channel != there:
            raise UnavailableError("not yet")
        platform.channels.send(channel, secret, event)

    deliver_once(store, datetime.now(UTC), send_there_only)
    gone.shutdown()
    gone.server_close()
    platform.told("policy.changed", "subscription.ended")
    old = platform.seen[0].seq
    with store.transaction() as connection:
        connection.execute(update(outbox).where(outbox.c.event_seq == old).values(delivered_at=None))
        connection.exec_driver_sql(f"UPDATE events SET roles = '5' WHERE seq = {old}")
    deliver_once(store, datetime.now(UTC), platform.channels.send)
    (event,) = platform.told("notification.set_aside")
    assert event.payload["event"] == old
