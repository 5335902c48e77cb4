"""What other processes do to a control store. Imports little, because there are many of them."""

import json
import os
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from multiprocessing.synchronize import Event as Signal
from pathlib import Path
from random import Random

from sqlalchemy import event, insert

from mlops_ray.config import Settings
from mlops_ray.errors import ConflictError
from mlops_ray.governance.approvals import approve
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.development_keys import development_key
from mlops_ray.governance.events import SYSTEM, Actor, Event, record
from mlops_ray.governance.keys import create_key
from mlops_ray.governance.live import Plan, Step, VersionRef, live
from mlops_ray.governance.notifications import deliver_once
from mlops_ray.governance.rollouts import advance, promote, start_rollout
from mlops_ray.governance.tables import endpoints
from mlops_ray.governance.versions import Evidence, record_version


def migrate(store: ControlStore, together: Barrier) -> None:
    together.wait()
    store.migrate()


def create_keys(store: ControlStore, together: Barrier, process: int, count: int) -> None:
    together.wait()
    for number in range(count):
        create_key(store, Actor(f"process {process}", ("admin",)), f"key {process}.{number}", ["predict"])


def make_development_key(store: ControlStore, together: Barrier, settings: Settings) -> None:
    together.wait()
    development_key(store, settings)


def hold_a_transaction(store: ControlStore, ready: Connection, release: Signal) -> None:
    """Write the state and its event, say so, and commit when released."""
    with store.transaction() as connection:
        connection.execute(insert(endpoints).values(use_case="flights", revision=1, champion_since=datetime.now(UTC)))
        record(connection, "champion.set", SYSTEM, "flights@1")
        ready.send(time.time())
        release.wait(60)


def promote_at_once(store: ControlStore, together: Barrier, number: int, answers: Path) -> None:
    """Start from what is live, and write down whether this promotion won or who it lost against."""
    rollout = live(store, "flights").rollout
    assert rollout is not None
    together.wait()
    _write_down(
        answers / str(number),
        lambda: promote(store, Actor(f"operator {number}", ("operate",)), "flights", rollout, "mine"),
    )


def change_at_random(store: ControlStore, together: Barrier, number: int, answers: Path) -> None:
    """Three changes, whatever fits what is live; write down when each began and ended."""
    random, actor = Random(number), Actor(f"operator {number}", ("operate",))
    made: list[dict[str, object]] = []
    together.wait()
    while len(made) < 3:
        began = time.monotonic()
        try:
            state = live(store, "flights")
            if state.rollout is None:
                version = VersionRef(random.randint(3, 9), "c" * 64)
                state = start_rollout(store, actor, "flights", version, Plan((Step("canary", 0.5, 60),)))
            else:
                act = random.choice([advance, promote]) if state.rollout.state == "loading" else promote
                state = act(store, actor, "flights", state.rollout, "at random")
        except ConflictError:
            continue
        made.append({"began": began, "ended": time.monotonic(), "revision": state.revision, "actor": actor.name})
    (answers / str(number)).write_text(json.dumps(made))


def register_at_once(store: ControlStore, together: Barrier, number: int) -> None:
    together.wait()
    evidence = Evidence(f"{number:064x}", "e" * 64)
    record_version(store, Actor(f"author {number}", ("operate",)), "flights", number + 1, evidence)


def approve_at_once(store: ControlStore, together: Barrier, number: int, answers: Path) -> None:
    together.wait()
    _write_down(answers / str(number), lambda: approve(store, Actor(f"approver {number}", ("approve",)), "flights", 1))


def promote_and_die(store: ControlStore, use_case: str, at: int, when: str, statements: Connection) -> None:
    """Promote the version of the rollout, and be killed before or after the statement with this number.

    The commit is the last of them. Without one of that number the promotion succeeds, and their number is sent.
    """
    rollout, count = live(store, use_case).rollout, 0
    assert rollout is not None
    store.close()

    def die() -> None:
        if count == at:
            os.kill(os.getpid(), signal.SIGKILL)

    def before(*_: object) -> None:
        nonlocal count
        count += 1
        if when == "before":
            die()

    def after(*_: object) -> None:
        if when == "after":
            die()

    engine = store._engine
    event.listen(engine, "before_cursor_execute", before)
    event.listen(engine, "after_cursor_execute", after)
    event.listen(engine, "commit", before)
    promote(store, Actor("ann", ("operate",)), use_case, rollout, "enough seen")
    after()
    statements.send(count)


def deliver_until_killed(store: ControlStore, taken: Connection) -> None:
    """A dispatcher that says what its receiver took, and then waits to be killed."""

    def send(channel: str, secret: str, event: Event) -> None:
        taken.send(event.seq)
        time.sleep(60)

    deliver_once(store, datetime.now(UTC), send)


def _write_down(answer: Path, do: Callable[[], object]) -> None:
    try:
        do()
        answer.write_text("won")
    except ConflictError as error:
        answer.write_text(str(error))


def record_and_end(store: ControlStore, subject: str) -> None:
    """As the last that has the store open, as far as the database's locks tell."""
    with store.transaction() as connection:
        record(connection, "champion.set", SYSTEM, subject)
    store.close()
