"""mosec and ONNX Runtime, in mosec's own environment."""

from typing import Any

from mosec import Server, Worker

from contest.servers.onnx_row import OnnxRow


class Flights(Worker):
    def __init__(self) -> None:
        super().__init__()
        self.model = OnnxRow()

    def forward(self, data: dict[str, Any]) -> dict[str, float]:
        return {"probability": self.model.probability(data["features"])}


if __name__ == "__main__":
    server = Server()
    server.append_worker(Flights, num=2)
    server.run()
