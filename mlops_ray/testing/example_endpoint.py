"""The endpoint of the example model with all its parts, in this process and without Ray or MLflow."""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from starlette.types import ASGIApp

from mlops_ray.config import Settings
from mlops_ray.errors import ConfigurationError
from mlops_ray.governance.champion import set_champion
from mlops_ray.governance.control_store import ControlStore, open_store
from mlops_ray.governance.events import SYSTEM
from mlops_ray.governance.keys import create_key
from mlops_ray.governance.live import VersionRef
from mlops_ray.predictions.label_writer import LabelWriter
from mlops_ray.predictions.writer import LedgerWriter
from mlops_ray.registry.sealed_model import load
from mlops_ray.serving.auth import Guard, tokens_of
from mlops_ray.serving.endpoint import Endpoint
from mlops_ray.serving.follower import Follower
from mlops_ray.serving.golden import replay_golden_requests
from mlops_ray.serving.http import DEADLINE_S
from mlops_ray.serving.label_routes import LabelRoutes
from mlops_ray.serving.middleware import Edge
from mlops_ray.serving.operations import Operations
from mlops_ray.serving.predictor import OnlineReader, Predictor
from mlops_ray.serving.push_routes import PushRoutes
from mlops_ray.serving.served_version import ServedVersion
from mlops_ray.testing.example_model import example_reader, seal_example

NAME = "departures"
FIRST_VERSION = 7

MakePredictor = Callable[[VersionRef, Predictor], Predictor]


@dataclass
class ExampleEndpoint:
    """`key` may do everything; `sealed` names each version that can be loaded, by its number, and `load` does it."""

    settings: Settings
    store: ControlStore
    key: str
    guard: Guard
    follower: Follower
    ledger: LedgerWriter
    endpoint: Endpoint
    labels: LabelWriter
    load: Callable[[VersionRef], ServedVersion]
    sealed: dict[int, VersionRef] = field(default_factory=dict)

    @property
    def app(self) -> ASGIApp:
        return Edge(self.endpoint.app)


@contextmanager
def example_endpoint(
    state: Path,
    reader: OnlineReader | None = None,
    deadline_s: float = DEADLINE_S,
    change: MakePredictor = lambda version, predictor: predictor,
    versions: int = 1,
    seal: Callable[[Path, int], str] = seal_example,
) -> Iterator[ExampleEndpoint]:
    """Serve the example from `state`, version 7 as champion; `versions` are sealed, all from the same model.

    seal: seals a version, by its number, into a folder and returns its digest. change: replaces the predictor of a
    version, to make it slow or broken. The follower is not started: call `follower.follow_once()` for the effect of a
    changed control store.
    """
    settings = Settings(state=str(state), data=str(state))
    store, guard = open_store(settings), Guard(NAME, {}, tokens_of(settings))
    sealed = {
        number: VersionRef(number, seal(state / "sealed" / str(number), number))
        for number in range(FIRST_VERSION, FIRST_VERSION + versions)
    }
    for version in sealed.values():  # where a pipeline leaves it, too
        kept = Path(settings.artifacts, "sealed_models", NAME, version.digest)
        shutil.copytree(state / "sealed" / str(version.version), kept)
    set_champion(store, SYSTEM, NAME, sealed[FIRST_VERSION], "the example")
    ledger = LedgerWriter(settings, NAME)

    def load_version(version: VersionRef) -> ServedVersion:
        model = load(state / "sealed" / str(version.version), version.digest)
        replay_golden_requests(model)
        predictor = change(version, Predictor(model, reader or example_reader()))
        served = ServedVersion(NAME, str(version.version), predictor)
        ledger.add_version(served.version, served.schema)
        return served

    follower = Follower(store, NAME, "replica", "node", load_version, guard)
    key = create_key(store, SYSTEM, "example", ["admin"]).secret
    follower.prepare()

    def find(version: int) -> VersionRef:
        if version not in sealed:
            raise ConfigurationError(f"{NAME} has no version {version}.")
        return sealed[version]

    labels = LabelWriter(settings, NAME)
    routes = {
        **Operations(store, NAME, find, follower.request_columns).routes(),
        **LabelRoutes(settings, NAME, follower, labels).routes(),
        **PushRoutes(settings, NAME, follower, time.time).routes(),
    }
    endpoint = Endpoint(NAME, follower, ledger, guard, routes, deadline_s)
    with ledger, labels:
        yield ExampleEndpoint(settings, store, key, guard, follower, ledger, endpoint, labels, load_version, sealed)
    store.close()
