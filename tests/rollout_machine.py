"""Rollouts as a state machine: whatever operators, rules, replicas and approvers do, in whatever order.

Hypothesis generates the interleavings. They run against a real control store with the code that replicas run; what is
made up are the replicas' models and the passing of time. The checker at the end knows nothing of that code: it reads
the history of events, and what the machine itself wrote down of reports and approvals.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count, pairwise
from typing import Any, ClassVar
from unittest.mock import patch

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from mlops_ray.errors import ConflictError, ForbiddenError
from mlops_ray.governance import approvals as approvals_module
from mlops_ray.governance import champion as champion_module
from mlops_ray.governance import change as change_module
from mlops_ray.governance import leases as leases_module
from mlops_ray.governance import replicas as replicas_module
from mlops_ray.governance import rollouts as rollouts_module
from mlops_ray.governance.approvals import approve, request, revoke
from mlops_ray.governance.champion import set_champion
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import Actor, Event
from mlops_ray.governance.history import changes
from mlops_ray.governance.live import Live, Plan, Rollout, Rules, Step, VersionRef, live
from mlops_ray.governance.policies import Policy
from mlops_ray.governance.policy_changes import set_policy
from mlops_ray.governance.replicas import FRESH, Loading, Replica, leave, report
from mlops_ray.governance.rollback import leave_unservable, roll_back
from mlops_ray.governance.rollouts import pause, promote, resume, start_rollout
from mlops_ray.governance.versions import Evidence, record_version
from mlops_ray.serving.controller import RolloutController
from mlops_ray.serving.counters import Counts
from mlops_ray.serving.rollout import Decision, step_key

ANN, BOB = Actor("ann", ("operate",)), Actor("bob", ("approve",))
VERSIONS = range(1, 6)
_READ_THE_CLOCK = (
    change_module, champion_module, rollouts_module, replicas_module, leases_module, approvals_module
)  # fmt: skip
PLANS = (
    Plan(()),
    Plan((Step("canary", 0.5, 0),), Rules(min_requests=10)),
    Plan((Step("shadow", 1.0, 0), Step("canary", 0.5, 30)), Rules(min_requests=10)),
)
_numbers = count()


@dataclass
class Node:
    """A replica with made-up models. state: what it last read."""

    id: str
    state: Live
    loaded: set[VersionRef] = field(default_factory=set)
    loading: set[VersionRef] = field(default_factory=set)
    failed: dict[VersionRef, str] = field(default_factory=dict)
    counters: dict[str, Any] = field(default_factory=dict)
    step: str = ""

    def said(self) -> Replica:
        loading = dict.fromkeys(self.loading, Loading(1.0))
        return Replica(
            self.id,
            "node",
            self.state.revision,
            tuple(self.loaded),
            loading,
            self.failed,
            None,
            self.step,
            self.counters,
        )


@dataclass
class Asked:
    """A request of an operator. made: the revisions that it made, each time it was sent."""

    seen: int
    send: Callable[[], Live]
    made: list[int] = field(default_factory=list)


@dataclass
class Decided:
    """What a replica has decided, and not yet done."""

    controller: RolloutController
    state: Live
    rollout: Rollout
    decision: Decision


class RolloutMachine(RuleBasedStateMachine):
    """Set `store` in a subclass."""

    store: ClassVar[ControlStore]
    happened: ClassVar[Counter[str]]

    def __init__(self) -> None:
        super().__init__()
        self.name = f"machine{next(_numbers)}"
        self.refs = {number: VersionRef(number, f"{number:064x}") for number in VERSIONS}
        self.passed, self.nodes, self.asked, self.decided = timedelta(), list[Node](), list[Asked](), list[Decided]()
        self.changes: list[Event] = []
        self.servable_at: list[tuple[int, frozenset[int]]] = []  # from which number of changes on, which versions
        self.last_words: dict[str, tuple[datetime, Replica]] = {}
        self.promoted_over: list[str] = []
        self.began = datetime.now(UTC)
        self.patches = [
            patch.object(replicas_module, "now_within", lambda connection: self.now()),
            *(patch.object(module, "database_now", lambda connection: self.now()) for module in _READ_THE_CLOCK),
        ]
        for one in self.patches:
            one.start()

    @initialize(plan=st.sampled_from([None, *PLANS]))
    def begin(self, plan: Plan | None) -> None:
        """Mostly in the middle of a rollout: chance seldom starts one whose version may serve."""
        set_policy(self.store, ANN, self.name, Policy(required=True))
        self.servable: set[int] = set()
        for number, ref in self.refs.items():
            record_version(self.store, ANN, self.name, number, Evidence(ref.digest, "e"))
            request(self.store, ANN, self.name, number)
            if number != 5:
                approve(self.store, BOB, self.name, number)
                self.servable.add(number)
        set_champion(self.store, ANN, self.name, self.refs[1], "first")
        set_champion(self.store, ANN, self.name, self.refs[2], "second")
        self.changes = changes(self.store, self.name)
        self.note_servable()
        self.new_replica()
        if plan is not None:
            self.start(3, plan, 0, loads=True)

    def has_rollout(self) -> bool:
        return bool(self.changes and self.changes[-1].after["rollout"])

    def is_running(self) -> bool:
        return self.has_rollout() and self.changes[-1].after["rollout"]["state"] == "running"

    # Operators

    @precondition(lambda self: not self.has_rollout())
    @rule(
        version=st.sampled_from([3, 4, 5, *VERSIONS, 5]),  # 5 is not approved at the beginning
        plan=st.sampled_from(PLANS),
        behind=st.sampled_from([0, 0, 0, 1, 2]),
        loads=st.booleans(),
    )
    def start(self, version: int, plan: Plan, behind: int, loads: bool) -> None:
        seen = max(0, live(self.store, self.name).revision - behind)
        self.ask(seen, lambda: start_rollout(self.store, ANN, self.name, self.refs[version], plan, seen))
        if loads and self.has_rollout() and self.nodes:
            self.everybody_goes_on()

    @rule(to=st.sampled_from(VERSIONS), behind=st.sampled_from([0, 0, 1, 2, 3]))
    def roll_back(self, to: int, behind: int) -> None:
        seen = max(0, live(self.store, self.name).revision - behind)
        self.ask(seen, lambda: roll_back(self.store, ANN, self.name, seen, to, "an operator"))

    @precondition(lambda self: self.is_running())
    @rule()
    def promote(self) -> None:
        state = live(self.store, self.name)
        rollout = state.rollout
        if rollout is not None:
            self.ask(state.revision, lambda: promote(self.store, ANN, self.name, rollout, "an operator"))

    @precondition(lambda self: self.is_running() and len(self.nodes) < 4)
    @rule()
    def promote_while_one_starts(self) -> None:
        self.new_replica()
        self.promote()

    @precondition(lambda self: self.has_rollout() and self.nodes)
    @rule()
    def promote_what_went_on_meanwhile(self) -> None:
        state = live(self.store, self.name)
        rollout = state.rollout
        self.everybody_goes_on()
        if rollout is not None:
            self.ask(state.revision, lambda: promote(self.store, ANN, self.name, rollout, "an operator"))

    @precondition(lambda self: self.has_rollout())
    @rule(change=st.sampled_from([pause, resume]), behind=st.sampled_from([0, 0, 1]))
    def pause_or_resume(self, change: Callable[..., Live], behind: int) -> None:
        state = live(self.store, self.name)
        if state.rollout is not None:
            seen, version = max(0, state.revision - behind), state.rollout.version.version
            self.ask(seen, lambda: change(self.store, ANN, self.name, seen, version, "an operator"))

    @precondition(lambda self: self.has_rollout())
    @rule()
    def pause_and_resume(self) -> None:
        for change in (pause, resume):
            self.pause_or_resume(change, 0)

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def send_again(self, data: st.DataObject) -> None:
        self.send(data.draw(st.sampled_from(self.asked)))

    def ask(self, seen: int, send: Callable[[], Live]) -> None:
        self.asked.append(Asked(seen, send))
        self.send(self.asked[-1])

    def send(self, asked: Asked) -> None:
        before = live(self.store, self.name).revision
        after = self.tried(asked.send)
        if after is not None and after.revision > before:
            asked.made.append(after.revision)

    # Approvers

    @rule(version=st.sampled_from(VERSIONS))
    def revoke(self, version: int) -> None:
        if version in self.servable:
            revoke(self.store, BOB, self.name, version, "a complaint")
            self.servable.remove(version)
            self.note_servable()

    @rule(version=st.sampled_from(VERSIONS))
    def approve(self, version: int) -> None:
        if version not in self.servable:
            self.tried(lambda: request(self.store, ANN, self.name, version))
            approve(self.store, BOB, self.name, version)
            self.servable.add(version)
            self.note_servable()

    # Replicas

    @precondition(lambda self: len(self.nodes) < 4)
    @rule()
    def new_replica(self) -> None:
        """It reports before it has loaded anything."""
        node = Node(f"{self.name}-{next(_numbers)}", live(self.store, self.name))
        node.loading = set(node.state.versions()[:1])
        self.nodes.append(node)
        self.say(node)

    @precondition(lambda self: self.nodes)
    @rule(data=st.data())
    def poll(self, data: st.DataObject) -> None:
        node = self.one(data)
        node.state = state = live(self.store, self.name)
        wanted = set(state.versions())
        node.loaded &= wanted
        node.failed = {ref: why for ref, why in node.failed.items() if ref in wanted}
        node.loading = wanted - node.loaded - node.failed.keys()
        step = step_key(state.rollout) if state.rollout else ""
        if step != node.step:
            none = Counts().to_json()
            node.step, node.counters = step, {"champion": none, "version": none} if step else {}

    @precondition(lambda self: any(node.loading for node in self.nodes))
    @rule(data=st.data(), works=st.integers(0, 3))
    def load(self, data: st.DataObject, works: int) -> None:
        node = data.draw(st.sampled_from([node for node in self.nodes if node.loading]))
        ref = data.draw(st.sampled_from(sorted(node.loading, key=lambda ref: ref.version)))
        node.loading.remove(ref)
        if works:
            node.loaded.add(ref)
        else:
            node.failed[ref] = "another digest"

    @precondition(lambda self: any(node.step for node in self.nodes))
    @rule(data=st.data(), errors=st.sampled_from([0, 0, 0, 5]))
    def count(self, data: st.DataObject, errors: int) -> None:
        node = data.draw(st.sampled_from([node for node in self.nodes if node.step]))
        if node.step:
            good, bad = Counts(requests=20), Counts(requests=20, errors=errors)
            node.counters = {"champion": good.to_json(), "version": bad.to_json()}

    @precondition(lambda self: self.nodes)
    @rule(data=st.data())
    def speak(self, data: st.DataObject) -> None:
        self.say(self.one(data))

    @precondition(lambda self: len(self.nodes) > 1)
    @rule(data=st.data(), in_good_order=st.booleans())
    def end(self, data: st.DataObject, in_good_order: bool) -> None:
        node = self.one(data)
        self.nodes.remove(node)
        if in_good_order:
            leave(self.store, self.name, node.said())
            self.last_words.pop(node.id, None)

    @rule(seconds=st.sampled_from([1, 4, 9, 20]))
    def pass_time(self, seconds: int) -> None:
        self.passed += timedelta(seconds=seconds)

    # Rules

    @precondition(lambda self: self.nodes)
    @rule(data=st.data())
    def control(self, data: st.DataObject) -> None:
        controller = RolloutController(self.store, self.name, self.one(data).id, None)
        self.tried(controller.round)

    @precondition(lambda self: self.has_rollout() and self.nodes)
    @rule()
    def everybody_goes_on(self) -> None:
        """What happens when nobody is in trouble, so that rollouts come to their end."""
        for node in self.nodes:
            node.state = state = live(self.store, self.name)
            node.loaded, node.loading, node.failed = set(state.versions()), set(), {}
            step = step_key(state.rollout) if state.rollout else ""
            good = Counts(requests=20).to_json()
            node.step, node.counters = step, {"champion": good, "version": good} if step else {}
            self.say(node)
        self.passed += timedelta(seconds=6)
        self.tried(RolloutController(self.store, self.name, self.nodes[0].id, None).round)

    @precondition(lambda self: self.has_rollout() and self.nodes)
    @rule(data=st.data())
    def decide(self, data: st.DataObject) -> None:
        """And be held up before it is done; what the lease is for does not depend on it."""
        controller = RolloutController(self.store, self.name, self.one(data).id, None)
        state = leave_unservable(self.store, self.name)
        self.note_changes()
        if state.rollout:
            decision = controller._decision(state, state.rollout)
            if decision:
                self.decided.append(Decided(controller, state, state.rollout, decision))

    @precondition(lambda self: self.decided)
    @rule(data=st.data())
    def carry_out(self, data: st.DataObject) -> None:
        late = data.draw(st.sampled_from(self.decided))
        self.tried(lambda: late.controller._apply(late.state, late.rollout, late.decision))

    # What is written down

    def one(self, data: st.DataObject) -> Node:
        return data.draw(st.sampled_from(self.nodes))

    def now(self) -> datetime:
        """The database's clock: it goes on when somebody looks, and when time passes here."""
        self.passed += timedelta(milliseconds=1)
        return self.began + self.passed

    def say(self, node: Node) -> None:
        at = self.now()  # before it is said: who is alive by this is alive by the store's own account
        report(self.store, self.name, node.said())
        self.last_words[node.id] = at, node.said()

    def tried(self, do: Callable[[], Any]) -> Any:
        try:
            result = do()
        except (ConflictError, ForbiddenError) as error:
            result = None
            self.happened[type(error).__name__] += 1
        self.note_changes()
        return result

    def note_servable(self) -> None:
        self.servable_at.append((len(self.changes), frozenset(self.servable)))

    def note_changes(self) -> None:
        """After each move: who was there when a version was promoted."""
        new = changes(self.store, self.name, self.changes[-1].seq)
        for event in new:
            self.happened[event.type] += 1
            if event.type == "rollout.promoted":
                champion = VersionRef(**event.after["champion"])
                self.promoted_over += [
                    f"{id}: {said}"
                    for id, (at, said) in self.last_words.items()
                    if event.time - at < FRESH and champion not in said.loaded
                ]
        self.changes += new

    def teardown(self) -> None:
        try:
            if self.servable_at:
                check(changes(self.store, self.name), self.servable_at, self.asked, self.promoted_over)
        finally:
            for one in self.patches:
                one.stop()


def check(
    events: list[Event],
    servable_at: list[tuple[int, frozenset[int]]],
    asked: list[Asked],
    promoted_over: list[str],
) -> None:
    """Whether the history is one that may be. Raises AssertionError."""
    # One order of all changes: each begins where the last one ended.
    assert [event.after["revision"] for event in events] == list(range(1, len(events) + 1))
    for before, after in pairwise(events):
        assert after.before == before.after, "a change was made to a state that was not there"
        assert after.time >= before.time
    # Nothing becomes live that may not serve; what was approved when is not read from the tables.
    for number, event in enumerate(events[2:], 2):
        may = [versions for since, versions in servable_at if since <= number][-1]
        for version in _live(event.after) - _live(event.before):
            assert version in may, f"version {version} went live, and only {set(may)} may"
        paused = event.before["rollout"] and event.before["rollout"]["paused_at"]
        goes_on = event.type in ("rollout.step", "rollout.promoted")
        assert not (paused and goes_on and event.actor == "system"), "a rollout that was paused went on by itself"
    assert promoted_over == []
    # A request counts once, and only while what it was about still stood.
    parts = [_parts(event.after) for event in events]
    for one in asked:
        assert len(one.made) <= 1, "a request that was sent again changed something again"
        for revision in one.made:
            assert len({repr(part) for part in parts[max(0, one.seen - 1) : revision - 1]}) <= 1, "it came too late"


def _live(state: Any) -> set[int]:
    return {part["version"] for part in (state["champion"], state["rollout"]) if part}


def _parts(state: Any) -> tuple[Any, Any]:
    return state["champion"], state["rollout"] and state["rollout"]["id"]
