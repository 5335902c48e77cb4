"""A control store as an older release left it."""

from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.schema import bring_up_to_date


def store_of_schema(url: str, revision: str) -> ControlStore:
    """An empty store with the tables of the schema `revision`."""
    store = ControlStore(url)
    store.prepare_folder()
    with store.migrating() as connection:
        bring_up_to_date(connection, revision)
    return store
