"""How predictions are watched stands beside the model: revision by revision, with who, when and why."""

from datetime import timedelta
from pathlib import Path

import pytest

from mlops_ray.errors import ConfigurationError, ConflictError, ForbiddenError, UseCaseError
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import Actor, read_events
from mlops_ray.governance.monitoring_definitions import definition_of, definitions, set_definition
from mlops_ray.use_case import Monitoring, WindowSpec
from tests.unit.test_version_routes import serving

ANN = Actor("ann", ("operate",), id="p1")


def test_a_definition_holds_until_another_is_set_and_each_is_an_event(store: ControlStore) -> None:
    assert definition_of(store, "flights") is None
    wanted = Monitoring(windows=(WindowSpec(rows=1_000),), false_alarm_days=60, slices=("origin",)).to_json()
    made = set_definition(store, ANN, "flights", wanted, "windows were too long", seen=0)
    assert (made.revision, made.changed_by, made.reason) == (1, "ann", "windows were too long")
    assert set_definition(store, ANN, "flights", wanted, "again").revision == 1
    set_definition(store, ANN, "flights", None, "as the models say", seen=1)
    assert [one.revision for one in definitions(store, "flights")] == [1, 2]
    assert definition_of(store, "flights") == definitions(store, "flights")[-1]
    assert definitions(store, "trains") == []
    first, second = read_events(store, types=["monitoring.changed"])
    assert (first.before, first.after["definition"], first.subject) == (None, wanted, "monitoring flights")
    assert (second.before, second.after["definition"]) == (first.after, None)


def test_who_may_not_or_does_not_say_why_or_saw_another_changes_nothing(store: ControlStore) -> None:
    set_definition(store, ANN, "flights", {"false_alarm_days": 60}, "why")
    with pytest.raises(ForbiddenError, match="operate"):
        set_definition(store, Actor("eve", ("approve", "predict")), "flights", None, "why")
    with pytest.raises(ConfigurationError, match="Say why"):
        set_definition(store, ANN, "flights", None, " ")
    with pytest.raises(ConflictError, match="at revision 1, and you decided on 0"):
        set_definition(store, ANN, "flights", None, "why", seen=0)
    assert len(definitions(store, "flights")) == 1


def test_a_declaration_becomes_json_and_back_unchanged() -> None:
    every = Monitoring(
        windows=(WindowSpec(rows=800, panes=4), WindowSpec(length=timedelta(hours=6), minimum_rows=50)),
        seasonal={"hour": "weekday"},
        false_alarm_days=90,
        slices=("origin", "carrier"),
        number_detector="wasserstein",
        category_detector="psi",
        error_detectors=("adwin",),
        labels_count_for=timedelta(days=30),
        labels_complete_after=timedelta(days=3),
    )
    for declared in (Monitoring(), every):
        assert Monitoring.from_json(declared.to_json()) == declared
    assert Monitoring.from_json({"false_alarm_days": 7}) == Monitoring(false_alarm_days=7)
    for wrong, said in (
        ({"window": []}, "no 'window'"),
        ({"windows": [{"rows": 100}]}, "cannot be read"),
        ({"false_alarm_days": "7"}, "false_alarm_days"),
        ({"number_detector": "kolmogorov"}, "kolmogorov_smirnov"),
    ):
        with pytest.raises(UseCaseError, match=said):
            Monitoring.from_json(wrong)


def test_who_operates_sets_it_over_http_and_who_looks_after_the_use_case_sees_it(tmp_path: Path) -> None:
    body = {"model": "boats", "definition": {"false_alarm_days": 60}, "revision": 0, "reason": "too many alarms"}
    with serving(tmp_path) as server:
        for who in ("bob", "auditor", "eve", "foreign"):
            assert server(who, "/monitoring/set", body).status_code == 403, who
        for wrong in ({"reason": ""}, {"definition": {"windows": 5}}, {"model": "../x"}, {"definition": 7}):
            assert server("ann", "/monitoring/set", body | wrong).status_code == 400, wrong
        for _ in range(2):  # an answer that did not arrive
            done = server("ann", "/monitoring/set", body)
            assert (done.status_code, done.json()["revision"], done.json()["changed_by"]) == (200, 1, "ann")
        assert server("ann", "/monitoring/set", body | {"definition": None}).status_code == 409
        for who, seen in (("bob", 1), ("auditor", 1), ("foreign", 0), ("eve", 0)):
            assert len(server(who, "/monitoring").json()["definitions"]) == seen, who
