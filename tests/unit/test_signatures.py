"""A use case that demands signed models: nothing else goes live, and what was live stays until it is replaced."""

import pytest
from sqlalchemy import text

from mlops_ray.errors import ForbiddenError
from mlops_ray.governance.champion import break_glass, set_champion
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import Actor
from mlops_ray.governance.live import Plan
from mlops_ray.governance.measurements import record_measurement
from mlops_ray.governance.policies import Policy
from mlops_ray.governance.policy_changes import set_policy
from mlops_ray.governance.rollback import roll_back
from mlops_ray.governance.rollouts import start_rollout
from mlops_ray.governance.signatures import demands_signature
from mlops_ray.governance.versions import Evidence, VersionRef, record_version

ANN = Actor("ann", ("admin",))
DEMANDS = Policy(signed=True)


def registered(store: ControlStore, number: int, signed: bool | None) -> VersionRef:
    payload = {"gates": []} | ({} if signed is None else {"signed": signed})
    record_version(store, ANN, "flights", number, Evidence(f"d{number}", "e"), payload=payload)
    return VersionRef(number, f"d{number}")


@pytest.mark.parametrize("signed", [None, False])
def test_a_version_without_a_signature_does_not_go_live(store: ControlStore, signed: bool | None) -> None:
    set_policy(store, ANN, "flights", DEMANDS)
    first, other = registered(store, 1, True), registered(store, 2, signed)
    assert demands_signature(store, "flights", first)
    set_champion(store, ANN, "flights", first, "signed")
    for go_live in (
        lambda: start_rollout(store, ANN, "flights", other, Plan()),
        lambda: set_champion(store, ANN, "flights", other, "by hand"),
    ):
        with pytest.raises(ForbiddenError, match="no signature that holds"):
            go_live()
    set_policy(store, ANN, "flights", Policy())
    set_champion(store, ANN, "flights", other, "not demanded any more")


def test_what_was_live_stays_so_and_can_be_gone_back_to_until_it_is_replaced(store: ControlStore) -> None:
    old, older = registered(store, 2, None), registered(store, 1, None)
    for version in (older, old):
        set_champion(store, ANN, "flights", version, "before")
    set_policy(store, ANN, "flights", DEMANDS)
    assert not demands_signature(store, "flights", old)
    assert not demands_signature(store, "flights", older)
    new = registered(store, 3, True)
    assert demands_signature(store, "flights", new)
    state = set_champion(store, ANN, "flights", new, "signed")
    assert demands_signature(store, "flights", older)
    roll_back(store, ANN, "flights", state.revision, 2, "it is worse")
    assert not demands_signature(store, "flights", old)


def test_there_is_no_way_back_around_the_signature(store: ControlStore) -> None:
    """What was replaced before signatures were demanded does not come back without one; what was not does."""
    for number in (1, 2, 3):
        state = set_champion(store, ANN, "flights", registered(store, number, None), "before")
    set_policy(store, ANN, "flights", DEMANDS)
    with pytest.raises(ForbiddenError, match=r"no signature that holds.*Go back to version 2"):
        roll_back(store, ANN, "flights", state.revision, 1, "it was better")
    assert roll_back(store, ANN, "flights", state.revision, 2, "it was better").serves_alone(2)
    set_policy(store, ANN, "flights", None)
    assert roll_back(store, ANN, "flights", state.revision + 1, 1, "not demanded any more").serves_alone(1)


def test_another_policy_in_between_does_not_begin_the_demand_anew(store: ControlStore) -> None:
    set_policy(store, ANN, "flights", DEMANDS)
    version = registered(store, 1, True)
    set_champion(store, ANN, "flights", version, "signed")
    set_policy(store, ANN, "flights", Policy(signed=True, max_error_rate=0.1))
    assert demands_signature(store, "flights", version)
    set_policy(store, ANN, "flights", None)
    set_policy(store, ANN, "flights", DEMANDS)
    assert not demands_signature(store, "flights", version)  # it was live when that was demanded


def test_a_version_that_was_signed_since_is_measured_again(store: ControlStore) -> None:
    version = registered(store, 1, False)
    set_policy(store, ANN, "flights", DEMANDS)
    record_measurement(store, ANN, "flights", 1, Evidence("d1", "e"), (), (), "signed since", {"signed": True})
    set_champion(store, ANN, "flights", version, "signed")


def test_the_glass_cannot_be_broken_for_what_no_replica_would_load(store: ControlStore) -> None:
    set_policy(store, ANN, "flights", DEMANDS)
    set_champion(store, ANN, "flights", registered(store, 1, True), "signed")
    registered(store, 2, False)
    with pytest.raises(ForbiddenError, match="no signature that holds"):
        break_glass(store, ANN, "flights", 2, "fire")


def test_before_is_by_the_order_of_events_and_not_by_their_times(store: ControlStore) -> None:
    set_policy(store, ANN, "flights", DEMANDS)
    version = registered(store, 1, True)
    set_champion(store, ANN, "flights", version, "signed")
    with store.transaction() as connection:
        earlier = "UPDATE events SET time = '2000-01-01 00:00:00.000000' WHERE type = 'champion.set'"
        connection.execute(text(earlier))
    assert demands_signature(store, "flights", version)
