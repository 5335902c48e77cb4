"""The site: what a server answers beside its models: routes below `/v2`, and pages at `/console`."""

from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from mlops_ray.config import Settings
from mlops_ray.console.application import Console
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.serving.auth import Guard
from mlops_ray.serving.environment import NO_MODEL
from mlops_ray.serving.inside import Inside
from mlops_ray.serving.repository import RunningModels
from mlops_ray.serving.server import ServerApi

ROUTES, PAGES = "/v2", "/console"


class Site:
    """An ASGI application. running: see `ServerApi`. pages: the console."""

    def __init__(self, settings: Settings, store: ControlStore, guard: Guard, running: RunningModels):
        self._routes = ServerApi(settings, store, guard, running).app
        self.pages = Console(settings, store, Inside(store, guard, self._routes))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] == "http" and (path == PAGES or path.startswith(f"{PAGES}/")):
            await self.pages(scope, receive, send)
        elif scope["type"] != "http" or path == ROUTES or path.startswith(f"{ROUTES}/"):
            await self._routes({**scope, "root_path": ROUTES}, receive, send)
        else:
            await JSONResponse({"error": NO_MODEL, "field": None, "request_id": None}, 404)(scope, receive, send)
