"""BentoML and scikit-learn, in BentoML's own environment."""

from typing import Any

import bentoml

from contest.servers.pipeline_row import PipelineRow


@bentoml.service(workers=2, logging={"access": {"enabled": False}}, metrics={"enabled": False})
class Flights:
    def __init__(self) -> None:
        self.model = PipelineRow()

    @bentoml.api
    async def predict(self, features: dict[str, Any]) -> dict[str, float]:
        return {"probability": self.model.probability(features)}
