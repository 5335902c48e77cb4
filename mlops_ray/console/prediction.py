"""A prediction: found in the ledger by its request's id, with the version that made it."""

from starlette.requests import Request
from starlette.responses import Response

from mlops_ray.console.page import Viewer, page
from mlops_ray.console.server import Server

_MAX_ID = 200


class PredictionPages:
    """server: which looks for it where the viewer has a role, and nowhere else."""

    def __init__(self, server: Server):
        self._server = server

    async def show(self, request: Request, viewer: Viewer) -> Response:
        asked = request.query_params.get("request", "").strip()[:_MAX_ID]
        if not asked:
            return page("prediction", viewer, asked="", found=None, error="")
        if "-" not in asked:  # what names no request would be looked up as a use case
            return page("prediction", viewer, 400, asked=asked, found=None, error=f"{asked!a} is no request's id.")
        answer = await self._server.ask(viewer.principal, "POST", "/versions/lineage", {"of": asked})
        status, found = answer.status, answer.body if answer.status == 200 else None
        return page("prediction", viewer, status, asked=asked, found=found, error=answer.error)
