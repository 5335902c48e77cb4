"""Inside: the server's routes for its own console, asked as the person who is signed in there."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec

from mlops_ray.console.server import Answer
from mlops_ray.errors import ForbiddenError, MlopsRayError
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.principals import Principal
from mlops_ray.governance.versions import VersionRef, expect
from mlops_ray.serving.auth import Guard
from mlops_ray.serving.failures import status_of, told
from mlops_ray.serving.http import HttpError, Routes
from mlops_ray.serving.operations import Operations


class Inside:
    """A `console.server.Server`: what it admits and answers is what `guard` and the routes say to anybody."""

    def __init__(self, store: ControlStore, guard: Guard, routes: Routes):
        self._store, self._guard, self._routes = store, guard, routes
        self.public = guard.public

    def admit(self, credential: str) -> Principal:
        try:
            return self._guard.admit({b"authorization": b"Bearer " + credential.encode("utf-8", "replace")}, None)
        except HttpError as error:
            raise ForbiddenError(error.error) from None

    def admit_identity(self, id_token: str, client_id: str, nonce: str) -> Principal:
        try:
            return self._guard.admit_identity(id_token.encode("utf-8", "replace"), client_id, nonce)
        except HttpError as error:
            raise ForbiddenError(error.error) from None

    def readmit(self, principal: Principal) -> Principal:
        try:
            return self._guard.readmit(principal)
        except HttpError as error:
            raise ForbiddenError(error.error) from None

    def tell(self, error: MlopsRayError) -> tuple[int, str]:
        return status_of(error), told(error)

    async def ask(
        self, principal: Principal, method: str, path: str, body: Any = None, use_case: str | None = None
    ) -> Answer:
        routes = self._routes if use_case is None else self._of(use_case)
        response = await routes.ask(principal, use_case, method, path, body)
        return Answer(response.status, msgspec.to_builtins(response.body))

    def _of(self, use_case: str) -> Routes:
        """Rollouts of a use case, by the control store alone: a plan of these names no column of requests."""
        find = partial(self._registered, use_case)
        return Routes(Operations(self._store, use_case, find, _no_columns).routes(), self._guard)

    def _registered(self, use_case: str, version: int) -> VersionRef:
        with self._store.reading() as connection:
            return expect(connection, use_case, version).ref


def _no_columns() -> Sequence[str]:
    return ()
