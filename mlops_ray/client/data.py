"""Data: what is kept of it, its rows elsewhere, and how rows are taken out."""

import secrets
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from mlops_ray.client.exchange import Call
from mlops_ray.client.steps import Steps, only
from mlops_ray.errors import UnavailableError

Shown = dict[str, Any]


class Data:
    """`Client.data`: snapshots, and the rows of a person. Needs a role on the use case that it is about."""

    def __init__(self, do: Callable[[Steps[Any]], Any]):
        self._do = do

    def list(self, use_case: str | None = None) -> Shown:
        """All `snapshots` with size, training sets and models, and what they cost together. None: of all use cases,
        which needs the role on all. Needs operate, approve or audit."""
        return dict(self._do(listed(use_case)))

    def show(self, use_case: str, digest: str) -> Shown:
        """A snapshot, by the beginning of its digest, with all that depends on it."""
        return dict(self._do(shown(use_case, digest)))

    def retire(self, use_case: str, digest: str, reason: str, force: Iterable[str] = ()) -> Shown:
        """Delete a snapshot's rows, and what was made from it alone: the `snapshot`, its `files` and `freed_bytes`.

        force: what may lose them although it is in use, each by its name: a live version (`flights@7`), or `last`.
        Needs the role operate. Raises ConflictError if something needs it that is not named, or others work on it.
        """
        return dict(self._do(retired(use_case, digest, reason, force)))

    def erase(self, entity: str, value: str, reason: str = "", dry_run: bool = False) -> Shown:
        """Erase the rows of a person, whose column `entity` is `value`, from all that was made of the data, however
        long that takes; says what was erased and what is not reached. dry_run: what would be. Needs the role admin."""
        return dict(self._do(erased(entity, value, reason, dry_run)))

    def export(self, use_case: str, digest: str, folder: Path) -> str:
        """Write a snapshot's tables as Parquet files, `folder/<source>/<table>`; its whole digest. Needs audit."""
        return str(self._do(exported(use_case, digest, folder)))


class AsyncData:
    """`AsyncClient.data`: the methods of `Data` as coroutines."""

    def __init__(self, do: Callable[[Steps[Any]], Awaitable[Any]]):
        self._do = do

    async def list(self, use_case: str | None = None) -> Shown:
        """See `Data.list`."""
        return dict(await self._do(listed(use_case)))

    async def show(self, use_case: str, digest: str) -> Shown:
        """See `Data.show`."""
        return dict(await self._do(shown(use_case, digest)))

    async def retire(self, use_case: str, digest: str, reason: str, force: Iterable[str] = ()) -> Shown:
        """See `Data.retire`."""
        return dict(await self._do(retired(use_case, digest, reason, force)))

    async def erase(self, entity: str, value: str, reason: str = "", dry_run: bool = False) -> Shown:
        """See `Data.erase`."""
        return dict(await self._do(erased(entity, value, reason, dry_run)))

    async def export(self, use_case: str, digest: str, folder: Path) -> str:
        """See `Data.export`."""
        return str(await self._do(exported(use_case, digest, folder)))


def listed(use_case: str | None) -> Steps[Shown]:
    query = f"?{urlencode({'use_case': use_case})}" if use_case is not None else ""
    return only(Call(f"/v2/data/snapshots{query}", method="GET"))


def shown(use_case: str, digest: str) -> Steps[Shown]:
    return only(_asked("snapshot", use_case=use_case, digest=digest))


def retired(use_case: str, digest: str, reason: str, force: Iterable[str]) -> Steps[Shown]:
    return _worked("retire", {"use_case": use_case, "digest": digest, "reason": reason, "force": list(force)})


def erased(entity: str, value: str, reason: str, dry_run: bool) -> Steps[Shown]:
    return _worked("erase", {"entity": entity, "value": value, "reason": reason, "dry_run": dry_run})


def exported(use_case: str, digest: str, folder: Path) -> Steps[str]:
    """Each file gets its name when it is whole."""
    found = yield _asked("tables", use_case=use_case, digest=digest)
    for source, names in found["tables"].items():
        for name in names:
            if Path(source).name != source or Path(name).name != name:
                raise UnavailableError(f"The server names a table {source!r}/{name!r}, which is no name of a file.")
            asked = {"use_case": use_case, "digest": found["digest"], "source": source, "name": name}
            content = yield _asked("table", **asked)
            target = folder / source / name
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_name(f".{name}.{secrets.token_hex(8)}")
            partial.write_bytes(content)
            partial.replace(target)
    return str(found["digest"])


def _asked(what: str, **query: str) -> Call:
    return Call(f"/v2/data/{what}?{urlencode(query)}", method="GET")


def _worked(what: str, body: Shown) -> Steps[Shown]:
    """The server answers each look when the work has ended, or after a few seconds."""
    answer = yield Call(f"/v2/data/{what}", body)
    while answer["state"] == "running":
        answer = yield _asked("work", id=answer["id"])
    return dict(answer["result"])
