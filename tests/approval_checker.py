"""What the rules of approvals say, once more and otherwise: over the events, one after another, in plain values.

It imports nothing of the code that it judges but the shape of an event. Who acted and in which order is taken from the
events; which roles people have, who may count, since when a rule holds and what is servable are worked out here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from mlops_ray.governance.events import Event

_NOTHING = {"required": False, "role": "approve", "four_eyes": True}


@dataclass(frozen=True)
class Seen:
    """Which versions a replica would have loaded after event `seq`."""

    seq: int
    may_serve: dict[int, bool]


@dataclass
class Asked:
    """A request: who has said yes, as persons with the person whose right it was, and what came of it."""

    until: datetime
    yes: list[tuple[str, str]] = field(default_factory=list)
    approved_until: datetime | None = None


@dataclass
class Version:
    author: str
    digest: str
    gates: list[str]
    asked: Asked | None = None
    refused: bool = False
    ever_let: bool = False
    retired: bool = False


@dataclass
class World:
    """All that holds after some events. spared: what was live, or one step behind, when approvals were demanded."""

    roles: Mapping[str, frozenset[str]]
    policy: dict[str, Any] = field(default_factory=lambda: dict(_NOTHING))
    gates: list[str] | None = None
    versions: dict[int, Version] = field(default_factory=dict)
    breakers: set[tuple[str, str]] = field(default_factory=set)  # persons, with the digest of what they did it for
    given: dict[str, dict[str, Any]] = field(default_factory=dict)
    changes: dict[str, dict[str, Any]] = field(default_factory=dict)
    champion: int | None = None
    previous: int | None = None
    rollout: int | None = None
    spared: set[int] = field(default_factory=set)
    broken: int | None = None  # the version of a glass broken just now

    def carries(self, person: str, role: str) -> bool:
        return role in self.roles.get(person, frozenset())

    def servable(self, number: int) -> bool:
        version = self.versions[number]
        if version.retired or version.refused:
            return False
        return not self.policy["required"] or version.ever_let or number in self.spared

    def admitted(self, number: int, now: datetime) -> bool:
        version = self.versions[number]
        if version.retired or version.refused:
            return False
        if not self.policy["required"]:
            return True
        asked = version.asked
        in_time = asked is not None and asked.approved_until is not None and now < asked.approved_until
        return in_time and self.gates in (None, version.gates)


def check(events: list[Event], roles: Mapping[str, frozenset[str]], seen: list[Seen]) -> None:
    """Whether the history is one that may be. Raises AssertionError."""
    world, looks = World(roles), sorted(seen, key=lambda one: one.seq)
    for event in events:
        while looks and looks[0].seq < event.seq:
            _compare(world, looks.pop(0))
        kind = event.type
        if event.actor_id is not None:
            assert set(event.roles) <= world.roles[event.actor_id], f"{event.actor} acted with roles of somebody else"
        if kind.startswith("policy."):
            _policy(world, event)
        elif kind.startswith("delegation."):
            _delegation(world, event)
        elif kind.startswith("approval."):
            _approval(world, event)
        elif kind == "version.registered":
            of = event.after
            world.versions[of["version"]] = Version(
                event.actor_id or "", of["evidence"]["model"], event.payload["gates"]
            )
        elif kind == "version.retired":
            number = event.after["version"]
            assert number not in (world.champion, world.rollout), "what is live was retired"
            world.versions[number].retired = True
            if world.previous == number:
                world.previous = None
        elif kind == "break_glass":
            if event.actor_id is not None:
                assert world.carries(event.actor_id, "operate"), "the glass was broken by who may not"
                world.broken = int(event.subject.partition("@")[2])
        elif kind in ("champion.set", "rollout.started", "rollout.promoted", "rollout.rolled_back", "rollout.failed"):
            _live(world, event)
    for look in looks:
        _compare(world, look)


def _compare(world: World, look: Seen) -> None:
    expected = {number: world.servable(number) for number in look.may_serve}
    assert look.may_serve == expected, f"after event {look.seq} replicas load {look.may_serve}, and may {expected}"


def _live(world: World, event: Event) -> None:
    state = event.after
    champion, previous, rollout = (
        state[part] and state[part]["version"] for part in ("champion", "previous", "rollout")
    )
    for number in {champion, rollout} - {None, world.champion, world.rollout}:
        if event.type == "rollout.rolled_back":
            assert world.servable(number), f"{number} came back, and may not serve"
        elif world.broken == number:
            assert not world.versions[number].retired
        else:
            assert world.admitted(number, event.time), f"{number} went live, and was not admitted"
    if event.type == "rollout.promoted":
        assert world.admitted(champion, event.time), f"{champion} was promoted, and is not admitted any more"
    world.champion, world.previous, world.rollout, world.broken = champion, previous, rollout, None
    world.spared &= {champion, previous}


def _policy(world: World, event: Event) -> None:
    if event.type != "policy.changed":
        _change_of_rules(world, event)
        return
    before, after = world.policy, {**_NOTHING, **(event.after or {})}
    if before["required"]:
        learned = world.gates is None and event.after == event.before
        assert learned or event.payload["change"] in world.changes, "rules were changed alone where others must agree"
        if not learned:
            change = world.changes[event.payload["change"]]
            assert (change["policy"], change["gates"]) == (event.after, event.payload["gates"]), "others than agreed to"
            assert len(set(change["yes"])) == len(change["yes"]) >= (before.get("min_approvers") or 1)
    else:
        assert {"operate", before["role"]} & world.roles[event.actor_id or ""], "rules were changed by who may not"
    if after["required"] and not before["required"]:
        world.spared = {number for number in (world.champion, world.previous) if number is not None}
    if not after["required"]:
        world.spared = set()
    world.policy, world.gates = after, event.payload["gates"] if event.after is not None else None


def _change_of_rules(world: World, event: Event) -> None:
    change, person = event.after, event.actor_id or ""
    if event.type == "policy.requested":
        assert {"operate", world.policy["role"]} & world.roles[person]
        world.changes[change["id"]] = {"by": person, "yes": [], "until": change["expires_at"], **_rules(change)}
    elif event.type == "policy.approved":
        known = world.changes[change["id"]]
        assert _rules(known) == _rules(change), "a change became another while it waited"
        assert world.carries(person, world.policy["role"]), "rules were approved by who may not"
        assert not (world.policy["four_eyes"] and person == known["by"]), "rules were approved by who asked for them"
        assert event.time < datetime.fromisoformat(known["until"]), "rules were approved too late"
        known["yes"].append(person)
    else:
        del world.changes[change["id"]]


def _rules(change: Mapping[str, Any]) -> dict[str, Any]:
    return {"policy": change["policy"], "gates": change["gates"]}


def _delegation(world: World, event: Event) -> None:
    if event.type == "delegation.ended":
        del world.given[event.after["id"]]
        return
    giver = event.actor_id or ""
    assert world.carries(giver, world.policy["role"]), "who has no right gave it away"
    assert event.after["taker_id"] != giver
    world.given[event.after["id"]] = {
        "giver": giver,
        "taker": event.after["taker_id"],
        "role": world.policy["role"],
        "until": datetime.fromisoformat(event.after["until"]),
    }


def _approval(world: World, event: Event) -> None:
    number = event.after["version"]
    version = world.versions[number]
    match event.type:
        case "approval.requested":
            until = event.time + timedelta(seconds=world.policy.get("expires_after_s", 30 * 86_400))
            version.asked = Asked(until)
            if event.after["break_glass"]:
                assert event.actor_id is not None
                world.breakers.add((event.actor_id, version.digest))
                version.refused, version.ever_let = False, True
        case "approval.agreed" | "approval.approved":
            _yes(world, event, version)
        case "approval.rejected" | "approval.revoked":
            if event.actor_id is not None:
                assert _rights(world, event.actor_id, event.time), "refused by who may not"
            version.refused, version.ever_let = True, False
            version.asked = None
            world.spared.discard(number)
        case _:
            assert event.type == "approval.expired"


def _yes(world: World, event: Event, version: Version) -> None:
    asked, person = version.asked, event.actor_id or ""
    assert asked is not None, "nobody had asked"
    assert event.time < asked.until, "it was approved too late"
    given = event.after["assents"][-1]
    right_of = given["for_id"] or person
    assert right_of in _rights(world, person, event.time), f"{event.actor} had no right to approve"
    for one in {person, right_of}:
        if world.policy["four_eyes"]:
            author = version.author
            assert one != author, "an author had a part in the approval"
            assert (one, version.digest) not in world.breakers, "who broke the glass had a part in the approval"
        assert one not in {who for pair in asked.yes for who in pair}, "somebody counted twice"
    asked.yes.append((person, right_of))
    enough = len(asked.yes) >= (world.policy.get("min_approvers") or 1)
    assert enough == (event.type == "approval.approved"), "approved by too few, or not by enough"
    if enough:
        asked.approved_until = event.time + timedelta(seconds=world.policy.get("expires_after_s", 30 * 86_400))
        version.refused, version.ever_let = False, True


def _rights(world: World, person: str, now: datetime) -> set[str]:
    """Whose right the person may use: their own, or else that of those who gave it."""
    role = world.policy["role"]
    if world.carries(person, role):
        return {person}
    taken = (one for one in world.given.values() if one["taker"] == person and now < one["until"])
    return {one["giver"] for one in taken if one["role"] == role}
