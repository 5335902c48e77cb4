"""LitServe and ONNX Runtime, in LitServe's own environment; its port is the argument."""

import sys
from typing import Any

import litserve

from contest.servers.onnx_row import OnnxRow


class Flights(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.model = OnnxRow()

    def decode_request(self, request: dict[str, Any]) -> dict[str, Any]:
        features: dict[str, Any] = request["features"]
        return features

    def predict(self, features: dict[str, Any]) -> float:
        return self.model.probability(features)

    def encode_response(self, probability: float) -> dict[str, float]:
        return {"probability": probability}


if __name__ == "__main__":
    server = litserve.LitServer(Flights(), accelerator="cpu", workers_per_device=2)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning")
