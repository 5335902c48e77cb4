"""What the Open Inference Protocol, and Triton's extensions of it, ask about a model and one version of it."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from mlops_ray.serving.counters import BOUNDS_S, Counts
from mlops_ray.serving.follower import Follower
from mlops_ray.serving.http import HttpError, Request, Response, Route
from mlops_ray.serving.inference_protocol import configuration
from mlops_ray.serving.served_version import ServedVersion
from mlops_ray.serving.traffic import Traffic

VERSION_HEADER = b"x-model-version"
ASKED: Final = "asked"  # the route of answers by a candidate that the caller chose: no rollout is judged by them


def asked_name(request: Request) -> str:
    """The version that the path or the header `x-model-version` names, whether there is one; "" where neither does.
    Raises HttpError 400 where they name different ones."""
    in_header = request.headers.get(VERSION_HEADER, b"").decode("latin-1").strip()
    name = request.version or in_header
    if in_header not in ("", name):
        raise HttpError(
            400,
            f"The path names version {name[:20]!a}, and the header x-model-version {in_header[:20]!a}. Send one.",
            VERSION_HEADER.decode(),
        )
    return name


def asked_version(request: Request, traffic: Traffic, use_case: str) -> ServedVersion | None:
    """The version that `asked_name` is of; None where the caller names none.

    The champion for everybody, the candidate of a rollout for who operates. Raises HttpError 403 for others, 404 for a
    version that this replica does not answer with.
    """
    name = asked_name(request)
    if not name:
        return None
    champion, candidate = traffic.champion, traffic.candidate
    if name == champion.version:
        return champion
    operates = request.principal is not None and request.principal.may("operate", use_case, datetime.now(UTC))
    if candidate is None or name != candidate.version:
        live = f"{champion.version} and {candidate.version}" if operates and candidate else champion.version
        raise HttpError(404, f"Version {name[:20]!a} of {use_case} takes no requests here; {live} does.", "version")
    if not operates:
        raise HttpError(403, f"Version {name} of {use_case} is not live yet; to ask it needs the role 'operate'.")
    return candidate


class ModelRoutes:
    """Of the champion, or of the version that the path names."""

    def __init__(self, name: str, follower: Follower):
        self._name, self._follower = name, follower

    def routes(self) -> Mapping[str, Mapping[str, Route]]:
        routes = {
            "": Route(self._describe, "predict"),
            "/ready": Route(self._ready, None),
            "/config": Route(self._configuration, "predict"),
            "/stats": Route(self._statistics, "predict"),
        }
        of_version = {f"/versions/{{version}}{path}": route for path, route in routes.items()}
        return {path: {"GET": route} for path, route in (routes | of_version).items()}

    def _version(self, request: Request) -> ServedVersion:
        traffic = self._follower.traffic
        return asked_version(request, traffic, self._name) or traffic.champion

    async def _describe(self, request: Request) -> Response:
        return Response(self._version(request).metadata)

    async def _ready(self, request: Request) -> Response:
        self._version(request)
        return Response({"name": self._name, "ready": True})

    async def _configuration(self, request: Request) -> Response:
        version = self._version(request)
        return Response(configuration(version.schema, self._name, version.version))

    async def _statistics(self, request: Request) -> Response:
        """Of the replica that answers; the metrics have all of them."""
        version = self._version(request).version
        counts = sum((c for (name, _), c in self._follower.counts.items() if name == version), Counts())
        return Response({"model_stats": [{"name": self._name, "version": version, "inference_stats": _stats(counts)}]})


def _stats(counts: Counts) -> dict[str, Any]:
    """Requests and their summed time, in which each counts with the upper bound of its bucket."""
    spent_s = sum(bound * count for bound, count in zip((*BOUNDS_S, BOUNDS_S[-1]), counts.latency, strict=True))
    return {
        "success": {"count": counts.requests - counts.errors, "ns": round(spent_s * 1e9)},
        "fail": {"count": counts.errors, "ns": 0},
    }
