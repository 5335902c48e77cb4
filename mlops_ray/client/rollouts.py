"""Rollouts: letting a version in and out again.

Each method that changes what is live says on which revision that was decided, so that an attempt that is repeated, or
comes late, changes nothing: where what it wants holds, `changed` in the answer is false, else it is a ConflictError
that says what holds. By default it is decided on what is live when the method is called.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from mlops_ray.client.exchange import Call
from mlops_ray.client.steps import Steps, only
from mlops_ray.client.values import model_path, plain

State = dict[str, Any]
Plan = Mapping[str, Any]


class Rollouts:
    """`Client.rollouts`. All methods return what is live afterwards: `revision`, `champion`, `previous`, `rollout`, its
    `progress`, and the `replicas`."""

    def __init__(self, do: Callable[[Steps[State]], State]):
        self._do = do

    def status(self, name: str) -> State:
        """What is live, how far a rollout is, and what was counted in its step."""
        return self._do(only(look(name)))

    def start(
        self, name: str, version: int, plan: Plan | None = None, revision: int | None = None, reason: str = ""
    ) -> State:
        """Let a registered version in, step by step. plan: steps and rules, see docs/rollout.md; default: the server's.

        Raises ConflictError while another rollout runs, ForbiddenError for a version that may not be live, and what
        `Client.predict` raises.
        """
        body = {"version": version, "plan": plain(plan or {}), "reason": reason}
        return self._do(changed(name, "", body, revision))

    def promote(self, name: str, to: int, reason: str = "", revision: int | None = None) -> State:
        """Make the version that comes in, `to`, champion now. Raises ConflictError while a replica does not hold it."""
        return self._do(changed(name, "/promote", {"to": to, "reason": reason}, revision))

    def pause(self, name: str, to: int, reason: str = "", revision: int | None = None) -> State:
        """Let the rollout of version `to` go no step on by itself; what is wrong with it still ends it."""
        return self._do(changed(name, "/pause", {"to": to, "reason": reason}, revision))

    def resume(self, name: str, to: int, reason: str = "", revision: int | None = None) -> State:
        """Let it go on by itself again."""
        return self._do(changed(name, "/resume", {"to": to, "reason": reason}, revision))

    def roll_back(self, name: str, to: int, reason: str = "", revision: int | None = None) -> State:
        """Let version `to` answer everything: end the rollout, or go back to an earlier champion.

        Raises ForbiddenError, with the version to go to instead, if it may not serve.
        """
        return self._do(changed(name, "/rollback", {"to": to, "reason": reason}, revision))


class AsyncRollouts:
    """`AsyncClient.rollouts`: the methods of `Rollouts` as coroutines."""

    def __init__(self, do: Callable[[Steps[State]], Awaitable[State]]):
        self._do = do

    async def status(self, name: str) -> State:
        """See `Rollouts.status`."""
        return await self._do(only(look(name)))

    async def start(
        self, name: str, version: int, plan: Plan | None = None, revision: int | None = None, reason: str = ""
    ) -> State:
        """See `Rollouts.start`."""
        body = {"version": version, "plan": plain(plan or {}), "reason": reason}
        return await self._do(changed(name, "", body, revision))

    async def promote(self, name: str, to: int, reason: str = "", revision: int | None = None) -> State:
        """See `Rollouts.promote`."""
        return await self._do(changed(name, "/promote", {"to": to, "reason": reason}, revision))

    async def pause(self, name: str, to: int, reason: str = "", revision: int | None = None) -> State:
        """See `Rollouts.pause`."""
        return await self._do(changed(name, "/pause", {"to": to, "reason": reason}, revision))

    async def resume(self, name: str, to: int, reason: str = "", revision: int | None = None) -> State:
        """See `Rollouts.resume`."""
        return await self._do(changed(name, "/resume", {"to": to, "reason": reason}, revision))

    async def roll_back(self, name: str, to: int, reason: str = "", revision: int | None = None) -> State:
        """See `Rollouts.roll_back`."""
        return await self._do(changed(name, "/rollback", {"to": to, "reason": reason}, revision))


def look(name: str) -> Call:
    return Call(model_path(name, "rollout"), method="GET")


def changed(name: str, path: str, body: Mapping[str, Any], revision: int | None) -> Steps[State]:
    """The state after a change that was decided on `revision`, by default on the newest."""
    if revision is None:
        revision = (yield look(name))["revision"]
    return dict((yield Call(model_path(name, f"rollout{path}"), {**body, "revision": revision})))
