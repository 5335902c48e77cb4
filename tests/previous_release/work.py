"""A process of the previous release: it does what replicas, operators and people do, a round for each line.

It runs with that release's package on its path. It answers each line with what it knows.
"""

import json
import sys
from datetime import UTC, datetime, timedelta

from mlops_ray.config import Settings
from mlops_ray.governance.alarms import raise_alarm, silence_alarm
from mlops_ray.governance.approvals import approve, expect_servable, request, revoke
from mlops_ray.governance.audit import anchor, verify_store
from mlops_ray.governance.champion import break_glass, retire, set_champion
from mlops_ray.governance.channels import Channels
from mlops_ray.governance.control_store import ControlStore, open_store
from mlops_ray.governance.events import Actor, read_events
from mlops_ray.governance.leases import hold
from mlops_ray.governance.live import Plan, Step, VersionRef, live
from mlops_ray.governance.notifications import deliver_once, subscribe
from mlops_ray.governance.policies import Policy, set_policy
from mlops_ray.governance.principals import active_keys, create_key, hash_of, revoke_key, rotate_key
from mlops_ray.governance.replicas import Replica, heard, report
from mlops_ray.governance.rollback import roll_back
from mlops_ray.governance.rollouts import advance, promote, start_rollout
from mlops_ray.governance.tables import SCHEMA_REVISION
from mlops_ray.governance.versions import Evidence, list_versions, record_version

ANN, BOB, ROOT = Actor("ann", ("operate",)), Actor("bob", ("approve",)), Actor("root", ("admin",))
PLAN = Plan((Step("shadow", 1.0, 0), Step("canary", 0.5, 0)))


def work(store: ControlStore, settings: Settings, use_case: str) -> dict[str, object]:
    """One round of all that writes, on a use case of its own; what stands afterwards."""
    secret = create_key(store, ROOT, f"key {use_case}", ["predict"], [use_case]).secret
    create_key(store, ROOT, f"other {use_case}", ["predict"])
    rotate_key(store, ROOT, f"other {use_case}", datetime.now(UTC) + timedelta(hours=1), "yearly")
    revoke_key(store, ROOT, f"other {use_case}", "left")
    subscribe(store, ANN, Channels(("127.0.0.1",)), "https://127.0.0.1/hook", use_case, secret="env:NONE")
    refs = [VersionRef(number, f"{number}" * 64) for number in (1, 2, 3)]
    for ref in refs:
        record_version(store, ANN, use_case, ref.version, Evidence(ref.digest, "e" * 64))
    set_champion(store, ANN, use_case, refs[0], "first")
    set_policy(store, ROOT, use_case, Policy(required=True, min_rollout_steps=2))
    for ref in refs:
        request(store, ANN, use_case, ref.version, "please")
        approve(store, BOB, use_case, ref.version, "looked at it", seen=ref.digest)
        expect_servable(store, use_case, ref)
    for ref in refs[1:]:
        say(store, use_case, *refs)
        state = start_rollout(store, ANN, use_case, ref, PLAN)
        for _ in range(2):
            assert state.rollout is not None
            state = advance(store, ANN, use_case, state.rollout, "enough seen")
        assert state.rollout is not None
        promote(store, ANN, use_case, state.rollout, "enough seen")
    roll_back(store, ANN, use_case, live(store, use_case).revision, 2, "worse")
    revoke(store, BOB, use_case, 3, "a fault")
    break_glass(store, ROOT, use_case, 1, "night")
    record_version(store, ANN, use_case, 4, Evidence("4" * 64, "e" * 64))
    retire(store, ANN, use_case, 4, "never used")
    raise_alarm(store, use_case, 1, f"alarm {use_case}", "Drift", "warning", datetime.now(UTC), {"question": "data"})
    now = datetime.now(UTC)
    silence_alarm(store, ANN, use_case, f"alarm {use_case}", "known", now + timedelta(hours=1), now)
    deliver_once(store, datetime.now(UTC), lambda *_: None)
    anchor(store, settings.audit_anchors)
    return look(store, use_case) | {
        "key": hash_of(secret),
        "lease": not hold(store, use_case, "me", timedelta(hours=1)),
    }


def say(store: ControlStore, use_case: str, *loaded: VersionRef) -> None:
    report(store, use_case, Replica(f"replica of {use_case}", "node", 1, loaded))


def look(store: ControlStore, use_case: str) -> dict[str, object]:
    """What this release reads of a use case."""
    state = live(store, use_case)
    return {
        "schema": SCHEMA_REVISION,
        "champion": state.champion and state.champion.version,
        "previous": state.previous and state.previous.version,
        "versions": [one.version for one in list_versions(store, use_case) if one.retired_at is None],
        "keys": sorted(active_keys(store)),
        "replicas": sorted(replica.id for replica in heard(store, use_case).replicas),
        "events": [event.hash for event in read_events(store, use_case=use_case)],
    }


def main() -> None:
    settings = Settings(**json.loads(sys.argv[1]))
    store = open_store(settings)
    for line in sys.stdin:
        what, use_case = line.split()
        if what == "work":
            done = work(store, settings, use_case)
        elif what == "say":
            say(store, use_case)
            done = {}
        elif what == "verify":
            found = verify_store(store, settings.audit_anchors)
            done = {"ok": found.ok, "problem": found.problem}
        else:
            done = look(store, use_case)
        print(json.dumps(done), flush=True)


if __name__ == "__main__":
    main()
