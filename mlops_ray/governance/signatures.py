"""Signatures: of which versions a use case demands that their models are signed.

Whether a signature holds is for `registry.model_signature` to say; who registers or measures a version records it. What
was live before a signature was demanded stays live, and can be gone back to, until it is replaced.
"""

from collections.abc import Mapping

from sqlalchemy import Connection, select

from mlops_ray.errors import ForbiddenError
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import read
from mlops_ray.governance.policies import policy_of
from mlops_ray.governance.tables import endpoints, events
from mlops_ray.governance.versions import VersionRef

SIGNED = "signed"
"""In the payload of `version.registered` and `version.measured`: whether the signature held then."""
_WENT_LIVE = ("champion.set", "rollout.promoted", "break_glass")


def demands_signature(store: ControlStore, use_case: str, version: VersionRef) -> bool:
    """Whether nobody may load this version unless its model is signed."""
    with store.reading() as connection:
        return _demands(connection, use_case, version)


def expect_signed(connection: Connection, use_case: str, version: VersionRef) -> None:
    """Raise ForbiddenError for a version that must be signed, and was not when it was registered or measured."""
    if _demands(connection, use_case, version) and not _was_signed(connection, use_case, version):
        raise ForbiddenError(
            f"Version {version.version} of {use_case} has no signature that holds, which {use_case} demands, so it may "
            f"not go live. Train it again where model_signing_key and model_signing_public_key are set."
        )


def _demands(connection: Connection, use_case: str, version: VersionRef) -> bool:
    if not policy_of(connection, use_case).signed:
        return False
    since = _demanded_since(connection, use_case)
    return since is None or not _live_before(connection, use_case, version, since)


def _demanded_since(connection: Connection, use_case: str) -> int | None:
    """The number of the event since which it is, without a break."""
    of_policy = (events.c.type == "policy.changed") & (events.c.subject == f"policy {use_case}")
    since = None
    for event in read(connection, select(events).where(of_policy).order_by(events.c.seq)):
        demanded = isinstance(event.after, Mapping) and event.after.get("signed")
        since = (since or event.seq) if demanded else None
    return since


def _live_before(connection: Connection, use_case: str, version: VersionRef, seq: int) -> bool:
    """Whether it is live, or the one before that, and was live before the event of this number."""
    row = connection.execute(select(endpoints).where(endpoints.c.use_case == use_case)).first()
    if row is None or version.version not in (row.champion_version, row.previous_version):
        return False
    went = events.c.type.in_(_WENT_LIVE) & (events.c.subject == f"{use_case}@{version.version}")
    return connection.execute(select(events.c.seq).where(went, events.c.seq < seq)).first() is not None


def _was_signed(connection: Connection, use_case: str, version: VersionRef) -> bool:
    told = events.c.type.in_(("version.registered", "version.measured"))
    query = select(events).where(told, events.c.subject == f"{use_case}@{version.version}").order_by(events.c.seq)
    said = [event.payload[SIGNED] for event in read(connection, query) if SIGNED in event.payload]
    return bool(said and said[-1])
