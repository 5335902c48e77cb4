"""Whether a recorded history and what is left afterwards agree: python -m tests.chaos.check_history FOLDER.

It imports nothing of mlops_ray: it reads the history's lines, the ledger's Parquet files and the rows of the control
store as a stranger would, by what docs/ says of them. FOLDER holds `history.jsonl`, `ledger.parquet` (all rows of all
segments, one after another), `events.jsonl`, `event_head.json` (the rows of these tables) and `drift.json`.
"""

import hashlib
import json
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

TEXTS = ("actor", "actor_id", "subject", "reason", "before", "after", "payload")
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Left:
    """What was left when all was over. ledger: how often a request id stands in it."""

    ledger: Counter[str]
    events: Rows
    head: dict[str, Any]
    drift: dict[str, int]


def check(history: Rows, left: Left, rotate_s: float = 0.0) -> list[str]:
    """What is not as it must be, in words; nothing where all is well. rotate_s: what a host that is lost may lose."""
    return [
        *_faults(history),
        *_predictions(history, left, rotate_s),
        *_chain(left),
        *_deliveries(history, left.events),
        *_retrainings(history, left.events),
    ]


def _faults(history: Rows) -> list[str]:
    """Each fault that began was seen to do what it is for, and ended."""
    found = []
    begun = [line["fault"] for line in history if line["what"] == "fault begun"]
    for what in ("fault seen", "fault ended"):
        missing = Counter(begun) - Counter(line["fault"] for line in history if line["what"] == what)
        found += [f"{name}: begun, and no '{what}' ({count} times)" for name, count in missing.items()]
    return found


def _predictions(history: Rows, left: Left, rotate_s: float) -> list[str]:
    given = {line["id"]: line["at"] for line in history if line["what"] == "answered" and line["status"] == 200}
    asked = {line["id"] for line in history if line["what"] == "asked"}
    losses = [line["at"] for line in history if line["what"] == "host lost"]
    lost = [id for id, at in given.items() if id not in left.ledger]
    excused = [id for id in lost if any(at - rotate_s <= given[id] <= at for at in losses)]
    doubled = [id for id, count in left.ledger.items() if count > 1]
    found = []
    if len(lost) > len(excused):
        found.append(f"{len(lost) - len(excused)} of {len(given)} acknowledged predictions are lost: {lost[:3]}")
    if doubled:
        found.append(f"{len(doubled)} predictions stand in the ledger more than once: {doubled[:3]}")
    if strange := [id for id in left.ledger if id not in asked]:
        found.append(f"{len(strange)} predictions stand in the ledger that nobody asked for: {strange[:3]}")
    if (counted := left.drift["rows"]) != (there := sum(left.ledger.values()) - left.drift["repeated"]):
        found.append(f"The drift actor counted {counted} predictions, the ledger has {there}")
    return found


def _chain(left: Left) -> list[str]:
    """Every event's hash is that of its fields, and names the one before; the head is the last one."""
    before, number = "", 0
    for number, event in enumerate(left.events, 1):
        if event["seq"] != number:
            return [f"Event {number} is missing from the audit log; {event['seq']} stands in its place"]
        if number > 1 and event["previous_hash"] != before:
            return [f"Event {number} does not name the hash of the one before"]
        if event["hash"] != _hash(event):
            return [f"Event {number} is not what its hash says"]
        before = event["hash"]
    if (left.head["seq"], left.head["hash"]) != (number, before):
        return [f"The audit log ends at {left.head['seq']}, its last event is {number}"]
    return []


def _hash(event: dict[str, Any]) -> str:
    covers = {name: value for name, value in event.items() if name not in ("hash", "salt")} | {"format": 2}
    for name in TEXTS:
        covers[name] = _covered(event[name], _below(event["salt"], name))
    text = json.dumps(covers, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _covered(value: Any, salt: str) -> Any:
    if isinstance(value, str):
        return "sha256:" + hashlib.sha256((salt + value).encode()).hexdigest()
    if isinstance(value, dict):
        return {name: _covered(part, _below(salt, name)) for name, part in value.items()}
    if isinstance(value, list):
        return [_covered(part, _below(salt, str(place))) for place, part in enumerate(value)]
    return value


def _below(salt: str, name: str) -> str:
    return hashlib.sha256(f"{salt}/{name}".encode()).hexdigest()


def _deliveries(history: Rows, events: Rows) -> list[str]:
    """Each event after the subscription's own, of the types that it asked for, was brought; no other was."""
    asked = next((line for line in history if line["what"] == "subscribed"), None)
    brought = {line["event"] for line in history if line["what"] == "delivered"}
    if asked is None:
        return ["nobody subscribed"]
    wanted = {event["id"] for event in events if event["seq"] > asked["after"] and event["type"] in asked["types"]}
    found = []
    if missing := wanted - brought:
        found.append(f"{len(missing)} of {len(wanted)} events were never delivered: {sorted(missing)[:3]}")
    if more := brought - {event["id"] for event in events}:
        found.append(f"{len(more)} events were delivered that are not in the audit log: {sorted(more)[:3]}")
    return found


def _retrainings(history: Rows, events: Rows) -> list[str]:
    """Each that was decided was begun, and finished once. One that died is begun again, as another submission
    (`<id>-<attempt>`); each of these is begun once."""
    payloads = [(event["type"], event["payload"]) for event in events]
    decided = Counter(
        said["order"]["id"] for type, said in payloads if type == "retraining.decided" and "order" in said
    )
    finished = Counter(said["id"] for type, said in payloads if type == "retraining.finished")
    begun = Counter(line["submission"] for line in history if line["what"] == "retraining begun")
    found = []
    for name, counts in (("decided", decided), ("finished", finished), ("begun", begun)):
        if twice := [id for id, count in counts.items() if count > 1]:
            found.append(f"Retrainings were {name} more than once: {twice[:3]}")
    ids = {submission.rpartition("-")[0] for submission in begun}
    for name, others in (("finished", set(finished)), ("begun", ids)):
        if other := set(decided) ^ others:
            found.append(f"Retrainings decided and {name} are not the same: {sorted(other)[:3]}")
    return found


def read_lines(file: Path) -> Rows:
    return [json.loads(line) for line in file.read_text().splitlines()]


def read_left(folder: Path) -> Left:
    ledger = pq.read_table(folder / "ledger.parquet", columns=["request_id"]).column("request_id").to_pylist()
    events = read_lines(folder / "events.jsonl")
    head, drift = (json.loads((folder / f"{name}.json").read_text()) for name in ("event_head", "drift"))
    return Left(Counter(ledger), events, head, drift)


def main(folder: Path, rotate_s: float = 0.0) -> list[str]:
    history, begun = read_lines(folder / "history.jsonl"), folder / "begun"
    if begun.exists():
        history += [{"what": "retraining begun", "submission": name} for name in begun.read_text().split()]
    left = read_left(folder)
    problems = check(history, left, rotate_s)
    kinds = Counter(str(line.get("status", line["what"])) for line in history)
    retrained = sum(event["type"] == "retraining.finished" for event in left.events)
    print(f"{dict(kinds)}; {left.ledger.total()} in the ledger, {len(left.events)} events, {retrained} retrainings")
    for problem in problems:
        print(f"WRONG: {problem}")
    return problems


if __name__ == "__main__":
    raise SystemExit(bool(main(Path(sys.argv[1]), *map(float, sys.argv[2:3]))))
