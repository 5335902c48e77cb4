"""FastAPI and scikit-learn: what most teams write first."""

from fastapi import FastAPI

from contest.servers.flight import Vector
from contest.servers.pipeline_row import PipelineRow

app = FastAPI()
model = PipelineRow()


@app.post("/predict")
async def predict(body: Vector) -> dict[str, float]:
    # Not in a thread: with one request at a time in a process, handing it over only costs.
    return {"probability": model.probability(dict(body.features))}
