"""Our endpoint with two replicas: authentication, validation, model, ledger, metrics. Arguments: port, cache in s."""

import shutil
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contest import work
from contest.servers.driver import running_ray
from contest.turns import is_on
from mlops_ray.governance.champion import set_champion
from mlops_ray.governance.control_store import open_store
from mlops_ray.governance.development_keys import development_key
from mlops_ray.governance.events import SYSTEM
from mlops_ray.governance.live import VersionRef
from mlops_ray.predictions.writer import LedgerWriter
from mlops_ray.serving import local
from mlops_ray.serving.app import EndpointArgs, endpoint_application
from mlops_ray.serving.shadow import Shadow

NAME = "flights"


@dataclass(frozen=True)
class SealedFolders:
    """A registry of the sealed folders that `prepare` made.

    A replica that loads from it looks ten times a second whether it shall do without its ledger or its shadow in every
    second turn (`contest.turns`). What these cost is measured that way in the same processes; nothing but a benchmark
    can take them away.
    """

    def find(self, name: str, version: int) -> VersionRef:
        return VersionRef(version, (work.SEALED / f"{version}.digest").read_text())

    def fetch(self, name: str, version: VersionRef, folder: Path) -> Path:
        if version.version == 1:
            threading.Thread(target=_switch, args=(LedgerWriter.append, Shadow.offer), daemon=True).start()
        return work.SEALED / str(version.version)

    def show_champion(self, name: str, version: int) -> None:
        pass


def _switch(append: Any, offer: Any) -> None:
    while True:
        LedgerWriter.append = _in_turns(append, work.LEDGER_TURNS)  # type: ignore[method-assign]
        Shadow.offer = _in_turns(offer, work.SHADOW_TURNS)  # type: ignore[method-assign]
        time.sleep(0.1)


def _in_turns(work_: Any, turns: Path) -> Any:
    try:
        turn_s = float(turns.read_text())
    except (FileNotFoundError, ValueError):  # or one that is being written
        return work_

    def in_turns(*given: Any, **named: Any) -> None:
        if is_on(time.time(), turn_s):
            work_(*given, **named)

    return in_turns


def main(port: int, cache_s: float) -> None:
    settings = work.settings(port, cache_s)
    shutil.rmtree(settings.state, ignore_errors=True)
    for switch in (work.LEDGER_TURNS, work.SHADOW_TURNS):
        switch.unlink(missing_ok=True)
    with running_ray():
        store = open_store(settings)
        set_champion(store, SYSTEM, NAME, SealedFolders().find(NAME, 1), "the benchmark's model")
        development_key(store, settings)
        args = EndpointArgs(model=NAME, min_replicas=2, max_replicas=2)
        local.start(settings, {NAME: endpoint_application(args, settings, SealedFolders())})


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
