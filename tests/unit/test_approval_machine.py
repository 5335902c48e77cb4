"""Interleavings of what five people do about approvals, on SQLite; see `tests.approval_machine`.

MLOPS_RAY_MACHINE_EXAMPLES: how many, others each time; the default takes seconds and the same each time.
"""

import os
from collections import Counter
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from sqlalchemy import event

from mlops_ray.governance.control_store import ControlStore
from tests import approval_machine
from tests.approval_machine import ApprovalMachine

KINDS = (
    "approval.agreed",
    "approval.approved",
    "approval.rejected",
    "approval.revoked",
    "approval.expired",
    "policy.approved",
    "policy.changed",
    "version.retired",
    "delegation.given",
    "break_glass",
    "champion.set",
    "rollout.promoted",
    "rollout.rolled_back",
    "ConflictError",
    "ForbiddenError",
)
EXAMPLES = os.environ.get("MLOPS_RAY_MACHINE_EXAMPLES")


def run(on: ControlStore) -> None:
    class Machine(ApprovalMachine):
        store = on
        actors, roles = approval_machine.people(on)
        happened: ClassVar[Counter[str]] = Counter()

    many = settings(
        max_examples=int(EXAMPLES or 40),
        derandomize=EXAMPLES is None,
        stateful_step_count=20,
        deadline=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    run_state_machine_as_test(Machine, settings=many)
    # What is looked for did happen.
    assert [kind for kind in KINDS if not Machine.happened[kind]] == []


@pytest.mark.timeout(900)
def test_whatever_people_do_nothing_is_live_that_the_rules_forbid(store: ControlStore) -> None:
    event.listen(store._engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous = OFF"))
    run(store)
