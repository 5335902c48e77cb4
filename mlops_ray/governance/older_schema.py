"""What has to be known of a control store before it is upgraded, read from the schema that it has."""

from sqlalchemy import select

from mlops_ray.governance.anchors import Anchor, read_anchors
from mlops_ray.governance.audit import Verification, verify
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import read
from mlops_ray.governance.schema import as_far_as_there
from mlops_ray.governance.tables import anchors, endpoints, event_head, events

_ROWS_AT_A_TIME = 1000


def verify_chain(store: ControlStore, place: str) -> Verification:
    """Whether the chain of events is what it was, against the anchors in the file `place` and those that the store
    remembers. What the tables hold is not compared: that is for `audit.verify_store`, once they are as it knows them.
    """
    with store.reading() as connection:
        query = as_far_as_there(connection, events).order_by(events.c.seq)
        remembered = [Anchor(*row) for row in connection.execute(select(anchors.c.seq, anchors.c.hash))]
        head = Anchor(*connection.execute(select(event_head.c.seq, event_head.c.hash)).one())
        records = read(connection, query.execution_options(yield_per=_ROWS_AT_A_TIME))
        return verify(records, [*read_anchors(place), *remembered, *([head] if head.seq else ())])


def use_cases_served(store: ControlStore) -> list[str]:
    """The use cases that have an endpoint, by name."""
    with store.reading() as connection:
        return list(connection.execute(select(endpoints.c.use_case).order_by(endpoints.c.use_case)).scalars())
