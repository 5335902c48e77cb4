"""FastAPI and ONNX Runtime."""

from fastapi import FastAPI

from serving.servers.flight import Vector
from serving.servers.onnx_row import OnnxRow

app = FastAPI()
model = OnnxRow()


@app.post("/predict")
async def predict(body: Vector) -> dict[str, float]:
    return {"probability": model.probability(body.features.model_dump())}
