"""Approvals as a state machine: whatever five people do with keys and tokens, in whatever order.

Hypothesis generates the interleavings, against a real control store. `tests.approval_checker` judges the history of
events afterwards; it knows nothing of the code that wrote it.
"""

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, ClassVar
from unittest.mock import patch

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from mlops_ray.errors import MlopsRayError
from mlops_ray.governance import approvals as approvals_module
from mlops_ray.governance import champion as champion_module
from mlops_ray.governance import change as change_module
from mlops_ray.governance import delegations as delegations_module
from mlops_ray.governance import policy_changes as policy_changes_module
from mlops_ray.governance import rollouts as rollouts_module
from mlops_ray.governance.approvals import approve, expire, reject, request, revoke
from mlops_ray.governance.broken_glass import follow_up
from mlops_ray.governance.champion import begin, break_glass, retire, set_champion
from mlops_ray.governance.clearance import expect_servable
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.delegations import delegate, end_delegation, list_delegations
from mlops_ray.governance.events import Actor, read_events
from mlops_ray.governance.keys import create_key
from mlops_ray.governance.live import Plan, VersionRef, live
from mlops_ray.governance.measurements import RULES
from mlops_ray.governance.policies import Policy
from mlops_ray.governance.policy_changes import approve_change, list_changes, reject_change, set_policy
from mlops_ray.governance.principals import Principal, person_of_subject
from mlops_ray.governance.rollback import leave_unservable, roll_back
from mlops_ray.governance.rollouts import promote, start_rollout
from mlops_ray.governance.versions import Evidence, list_versions, record_version
from tests.approval_checker import Seen, check

_READ_THE_CLOCK = (
    approvals_module, champion_module, change_module, delegations_module, policy_changes_module, rollouts_module
)  # fmt: skip
ISSUER = "https://idp.example.org"
HOUR_S, DAY_S = 3600.0, 86_400.0
ONE = Policy(required=True, expires_after_s=DAY_S)
POLICIES: tuple[Policy | None, ...] = (
    None,
    Policy(),
    ONE,
    Policy(required=True, expires_after_s=DAY_S, min_approvers=2, broken_glass_ends_after_s=HOUR_S),
    Policy(required=True, expires_after_s=DAY_S, four_eyes=False),
    Policy(required=True, expires_after_s=DAY_S, role="operate"),
)
GATES = (("Threshold('roc_auc', 0.6)",), ("Threshold('roc_auc', 0.1)",))
VERSIONS = range(1, 6)
DIGESTS = {1: "a" * 64, 2: "b" * 64, 3: "a" * 64, 4: "c" * 64, 5: "d" * 64}  # 1 and 3 are the same bytes
_numbers = count()


def people(store: ControlStore) -> tuple[dict[str, Actor], dict[str, frozenset[str]]]:
    """Credentials by name, and which roles each person has. ann has two keys; eve has a key and a token; cat has only a
    token; dan may approve nothing by himself."""
    made = Actor("root", ("admin",))
    eve = person_of_subject(ISSUER, "eve")
    tag = next(_numbers)
    keys = {
        "ann": create_key(store, made, f"ann{tag}", ["operate", "approve"]),
        "ann's laptop": create_key(store, made, f"laptop{tag}", ["approve", "operate"], person=f"ann{tag}"),
        "bob": create_key(store, made, f"bob{tag}", ["approve"]),
        "dan": create_key(store, made, f"dan{tag}", ["predict"]),
        "eve": create_key(store, made, f"eve{tag}", ["operate", "approve"], person=eve),
    }
    tokens = {
        "cat": Principal(person_of_subject(ISSUER, "cat"), "cat", ("approve", "operate")),
        "eve's token": Principal(eve, "Eve E.", ("operate", "approve")),
    }
    actors = {name: key.principal.actor(None) for name, key in keys.items()}
    actors |= {name: principal.actor(None) for name, principal in tokens.items()}
    return actors, {actor.id: frozenset(actor.roles) for actor in actors.values()}


class ApprovalMachine(RuleBasedStateMachine):
    """Set `store`, `actors` and `roles` in a subclass."""

    store: ClassVar[ControlStore]
    actors: ClassVar[dict[str, Actor]]
    roles: ClassVar[dict[str, frozenset[str]]]
    happened: ClassVar[Counter[str]]

    who = st.sampled_from(["ann", "ann's laptop", "bob", "cat", "dan", "eve", "eve's token"])
    version = st.sampled_from(VERSIONS)

    def __init__(self) -> None:
        super().__init__()
        self.name = f"machine{next(_numbers)}"
        self.passed, self.began, self.seen = timedelta(), datetime.now(UTC), list[Seen]()
        self.patches = [
            patch.object(module, "database_now", lambda connection: self.now()) for module in _READ_THE_CLOCK
        ]
        for one in self.patches:
            one.start()

    def now(self) -> datetime:
        """The database's clock: it goes on when somebody looks, and when time passes here."""
        self.passed += timedelta(milliseconds=1)
        return self.began + self.passed

    @initialize(policy=st.sampled_from(POLICIES), author=who)
    def start(self, policy: Policy | None, author: str) -> None:
        self.tried(set_policy, self.actors["ann"], self.name, policy, GATES[0])
        for number in (1, 2, 3, 4):
            self.register(number, author, 0)
        for number in (1, 2):
            self.come_in(number, author, number == 2)

    # Versions

    @rule(number=version, who=who, gates=st.sampled_from([0, 0, 1]))
    def register(self, number: int, who: str, gates: int) -> None:
        if not self.is_registered(number):
            evidence, payload = Evidence(DIGESTS[number], "e"), {RULES: GATES[gates]}
            record_version(self.store, self.actors[who], self.name, number, evidence, payload=payload)

    @rule(number=version, who=who)
    def ask(self, number: int, who: str) -> None:
        self.tried(request, self.actors[who], self.name, number)

    @rule(number=version, who=who)
    def approve(self, number: int, who: str) -> None:
        self.tried(approve, self.actors[who], self.name, number, "fine")

    @rule(number=version, who=who, roll_out=st.booleans())
    def come_in(self, number: int, who: str, roll_out: bool) -> None:
        """What happens when nobody is in trouble, so that versions get as far as they may."""
        self.register(number, who, 0)
        self.everybody_agrees(number)
        if roll_out:
            self.roll_out(number, who)
            self.promote(who)
        else:
            self.go_live(number, who)

    @rule(number=version)
    def everybody_agrees(self, number: int) -> None:
        self.ask(number, "eve")
        for who in self.actors:
            self.approve(number, who)

    @rule(number=version, who=who, what=st.sampled_from([reject, revoke]))
    def refuse(self, number: int, who: str, what: Callable[..., Any]) -> None:
        if what is reject:
            self.tried(revoke, self.actors["bob"], self.name, number, "it is looked at again")
            self.ask(number, "ann")
        self.tried(what, self.actors[who], self.name, number, "a complaint")
        self.look()

    @rule(number=version, who=st.sampled_from(["ann", "cat", "eve"]))
    def retire(self, number: int, who: str) -> None:
        self.tried(retire, self.actors[who], self.name, number, "old")

    # What is live

    @rule(number=version, who=who)
    def go_live(self, number: int, who: str) -> None:
        if self.is_registered(number):
            self.tried(set_champion, self.actors[who], self.name, VersionRef(number, DIGESTS[number]), "now")

    @rule(number=version, who=who)
    def roll_out(self, number: int, who: str) -> None:
        if self.is_registered(number):
            self.tried(start_rollout, self.actors[who], self.name, VersionRef(number, DIGESTS[number]), Plan(()))

    @rule(who=who)
    def promote(self, who: str) -> None:
        running = live(self.store, self.name).rollout
        if running:
            self.tried(promote, self.actors[who], self.name, running, "enough")

    @rule(who=who)
    def go_back(self, who: str) -> None:
        previous = live(self.store, self.name).previous
        if previous:
            self.roll_back(previous.version, who)

    @rule(number=version, who=who)
    def roll_back(self, number: int, who: str) -> None:
        revision = live(self.store, self.name).revision
        self.tried(roll_back, self.actors[who], self.name, revision, number, "complaints")

    @rule(number=version, who=st.sampled_from(["ann", "bob", "cat", "eve", "eve's token"]))
    def break_glass(self, number: int, who: str) -> None:
        champion = live(self.store, self.name).champion
        if champion:
            self.roll_back(champion.version, who)  # no rollout runs then
        self.tried(break_glass, self.actors[who], self.name, number, "fire")

    @rule()
    def replicas_follow(self) -> None:
        begin(self.store, self.name)
        leave_unservable(self.store, self.name)
        self.look()

    # Rules

    @rule(who=who, policy=st.sampled_from(POLICIES), gates=st.sampled_from([0, 0, 1]))
    def declare(self, who: str, policy: Policy | None, gates: int) -> None:
        self.tried(set_policy, self.actors[who], self.name, policy, GATES[gates])
        self.look()

    @rule(who=who, decide=st.sampled_from([approve_change, approve_change, approve_change, reject_change]))
    def decide_on_rules(self, who: str, decide: Callable[..., Any]) -> None:
        for change in list_changes(self.store, self.name)[:1]:
            self.tried(decide, self.actors[who], change.id, "so be it")
            self.look()

    @rule(policy=st.sampled_from(POLICIES), gates=st.sampled_from([0, 0, 1]))
    def everybody_wants(self, policy: Policy | None, gates: int) -> None:
        self.declare("cat", policy, gates)
        for who in self.actors:
            self.decide_on_rules(who, approve_change)

    # Delegations

    @rule(giver=who, taker=who, hours=st.sampled_from([1, 30]))
    def delegate(self, giver: str, taker: str, hours: int) -> None:
        until = self.began + self.passed + timedelta(hours=hours)
        self.tried(delegate, self.actors[giver], self.name, self.actors[taker].id, until, "away")

    @rule(number=version, giver=st.sampled_from(["ann", "bob", "cat", "eve"]))
    def approve_for(self, number: int, giver: str) -> None:
        self.delegate(giver, "dan", 1)
        self.ask(number, "eve")
        self.approve(number, "dan")

    @rule(who=who)
    def end_delegation(self, who: str) -> None:
        for given in list_delegations(self.store, self.name)[:1]:
            self.tried(end_delegation, self.actors[who], given.id, "back")

    # Time

    @rule(hours=st.sampled_from([0.5, 2, 25]), looks=st.booleans())
    def pass_time(self, hours: float, looks: bool) -> None:
        self.passed += timedelta(hours=hours)
        if looks:
            self.dispatcher_looks()

    @rule()
    def dispatcher_looks(self) -> None:
        expire(self.store, self.now())
        with suppress(MlopsRayError):
            follow_up(self.store, self.now())
        self.look()

    # What is written down

    def is_registered(self, number: int) -> bool:
        return number in {one.version for one in list_versions(self.store, self.name)}

    def tried(self, do: Callable[..., Any], *arguments: Any) -> None:
        try:
            do(self.store, *arguments)
        except MlopsRayError as error:
            self.happened[type(error).__name__] += 1

    def look(self) -> None:
        """Which versions a replica would load now."""
        with self.store.reading():
            seq = self.store.head()
        may = {}
        for one in list_versions(self.store, self.name):
            try:
                expect_servable(self.store, self.name, one.ref)
                may[one.version] = True
            except MlopsRayError:
                may[one.version] = False
        self.seen.append(Seen(seq, may))

    def teardown(self) -> None:
        try:
            self.look()
            events = read_events(self.store, use_case=self.name, limit=10_000)
            self.happened.update(event.type for event in events)
            self.happened.update(f"for another: {event.type}" for event in events if _is_for_another(event))
            check(events, self.roles, self.seen)
        finally:
            for one in self.patches:
                one.stop()


def _is_for_another(event: Any) -> bool:
    return event.type.startswith("approval.a") and any(one["for_id"] for one in event.after["assents"])
