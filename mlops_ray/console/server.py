"""The server as its pages see it: who may come in, and what its routes answer to them.

It is handed in, since serving stands behind the console in the order of imports. What a person does on a page is asked
of the same routes that commands and clients ask, as the same principal: no page can do what the API refuses.
"""

from dataclasses import dataclass
from typing import Any, Protocol

from mlops_ray.errors import MlopsRayError
from mlops_ray.governance.principals import Principal


@dataclass(frozen=True)
class Answer:
    """What a route answered: a status of HTTP, and the JSON of its body, which has `error` above 399."""

    status: int
    body: Any

    @property
    def error(self) -> str:
        return str(self.body.get("error", "")) if self.status >= 400 and isinstance(self.body, dict) else ""


class Server(Protocol):
    """public: whether others than this machine reach it."""

    public: bool

    def admit(self, credential: str) -> Principal:
        """Whose key or token this is. Raises ForbiddenError, with a sentence, for one that does not count."""

    def admit_identity(self, id_token: str, client_id: str, nonce: str) -> Principal:
        """Whom the provider signed in, for this client and the attempt of `nonce`. Raises ForbiddenError as `admit`."""

    def readmit(self, principal: Principal) -> Principal:
        """Somebody who was admitted, as they stand now. Raises ForbiddenError once their key or token has ended."""

    def tell(self, error: MlopsRayError) -> tuple[int, str]:
        """The status of HTTP, and what a caller may read of the error: nothing of this machine."""

    async def ask(
        self, principal: Principal, method: str, path: str, body: Any = None, use_case: str | None = None
    ) -> Answer:
        """What a route below `/v2` answers; with `use_case`, one of the routes of rollouts of that use case."""
