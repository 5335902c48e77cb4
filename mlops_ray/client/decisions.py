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
    approval: str | None = None,
) -> Steps[dict[str, Any]]:
    """What the server answers to a decision.

    Breaking the glass is decided on a revision, by default on what is live now, and a verdict on a request, by default
    the newest that this key may see: an attempt that comes after somebody went back, or asked anew, must not undo that.
    Raises ConfigurationError or UnavailableError where no revision was given and what is live cannot be seen.
    """
    if what == "break-glass" and revision is None:
        try:
            revision = (yield look(name))["revision"]
        except (ConfigurationError, UnavailableError) as error:
            step = "Give the revision that this is decided on: `mlops-ray live` shows it, 0 where nothing ever was."
            raise type(error)(f"{error} {step}") from error
    if what in ("approve", "reject", "revoke") and approval is None:
        asked = (yield Call("/v2/approvals", method="GET"))["approvals"]
        about = (one["id"] for one in asked if (one["use_case"], one["version"]) == (name, version))
        approval = next(about, None)
    body = {"model": name, "version": version, "reason": reason, "digest": digest}
    body |= {} if revision is None else {"revision": revision}
    body |= {"condition": condition} if condition else {}
    body |= {"approval": approval} if approval else {}
    return dict((yield Call("/v2/versions/retire" if what == "retire" else f"/v2/approvals/{what}", body)))
