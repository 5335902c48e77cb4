"""FastAPI and ONNX Runtime."""

from fastapi import FastAPI

from contest.servers.flight import Vector
from contest.servers.onnx_row import OnnxRow

app = FastAPI()
model = OnnxRow()


@app.post("/predict")
async def predict(body: Vector) -> dict[str, float]:
    return {"probability": model.probability(dict(body.features))}
