"""At least 200 interleavings of operators, rules, replicas and approvers on SQLite; see `tests.rollout_machine`."""

from collections import Counter
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from sqlalchemy import event

from mlops_ray.governance.control_store import ControlStore
from tests.audit_history import replayed
from tests.rollout_machine import RolloutMachine

KINDS = (
    "rollout.started",
    "rollout.step",
    "rollout.paused",
    "rollout.resumed",
    "rollout.promoted",
    "rollout.rolled_back",
    "ConflictError",
    "ForbiddenError",
)
MANY = settings(
    max_examples=200, stateful_step_count=16, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True
)


def run(on: ControlStore) -> None:
    class Machine(RolloutMachine):
        store = on
        happened: ClassVar[Counter[str]] = Counter()

    run_state_machine_as_test(Machine, settings=MANY)
    with on.reading() as connection:
        assert replayed(on).difference(connection) is None, "the tables hold what no event tells of"
    # What is looked for did happen: how often is chance.
    assert all(Machine.happened[kind] for kind in KINDS), Machine.happened


@pytest.mark.timeout(900)
def test_whatever_happens_in_whatever_order_the_history_is_one_that_may_be(store: ControlStore) -> None:
    event.listen(store._engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous = OFF"))
    run(store)
