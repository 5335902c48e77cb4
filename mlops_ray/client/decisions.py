"""Decisions about versions: approvals, doing without one, retirement."""

from typing import Any, Literal

from mlops_ray.client.exchange import Call
from mlops_ray.client.rollouts import look
from mlops_ray.client.steps import Steps
from mlops_ray.errors import ConfigurationError, UnavailableError

Decision = Literal["request", "approve", "reject", "revoke", "break-glass", "retire"]


def decided(
    what: Decision,
    name: str,
    version: int,
    reason: str,
    digest: str | None,
    revision: int | None,
    condition: str = "",
) -> Steps[dict[str, Any]]:
    """What the server answers to a decision.

    Breaking the glass is decided on a revision, by default on what is live now: an attempt that comes after somebody
    went back must not undo that. Where nothing is served, or answers, there is none to look at.
    """
    if what == "break-glass" and revision is None:
        try:
            revision = (yield look(name))["revision"]
        except (ConfigurationError, UnavailableError):
            revision = None
    body = {"model": name, "version": version, "reason": reason, "digest": digest}
    body |= {} if revision is None else {"revision": revision}
    body |= {"condition": condition} if condition else {}
    return dict((yield Call("/v2/versions/retire" if what == "retire" else f"/v2/approvals/{what}", body)))
