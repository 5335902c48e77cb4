"""Bare Ray Serve: a Starlette application with the same ONNX file in two replicas, and nothing else.

Behind HAProxy or Ray's Python proxy, as the environment says, which is otherwise the same for both and for ours.
"""

import sys
from typing import Any

from ray import serve
from ray.serve.schema import LoggingConfig
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from contest.servers.driver import running_ray
from contest.servers.onnx_row import OnnxRow


@serve.deployment(num_replicas=2, max_ongoing_requests=64, logging_config=LoggingConfig(enable_access_log=False))
@serve.ingress()
class Flights:
    def __init__(self) -> None:
        self.model = OnnxRow()

    def __serve_build_asgi_app__(self) -> Starlette:
        return Starlette(routes=[Route("/predict", self.predict, methods=["POST"])])

    async def predict(self, request: Request) -> JSONResponse:
        body = await request.json()
        return JSONResponse({"probability": self.model.probability(body["features"])})


if __name__ == "__main__":
    with running_ray():
        serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
        deployment: Any = Flights
        serve.run(deployment.bind())
