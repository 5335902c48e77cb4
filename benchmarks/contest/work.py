"""Where the benchmark keeps what it makes: a state folder of its own, made anew by each run."""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DATA = ROOT / "data" / "flights"
STATE = ROOT / "state" / "benchmark"
WORK = STATE / "serving"
AS_OF = "2014-01-01T05:00:00Z"

PIPELINE = WORK / "pipeline.joblib"
MLFLOW_MODEL = WORK / "mlflow_model"
SEALED = WORK / "sealed"
ONNX = SEALED / "1" / "model.onnx"
VECTOR_ROWS, MLFLOW_ROWS, KEY_ROWS = WORK / "vectors.jsonl", WORK / "mlflow.jsonl", WORK / "keys.jsonl"
FACTS = WORK / "facts.json"
# While such a file is there, the replicas do without the one or the other in every second turn of so many seconds.
LEDGER_TURNS, SHADOW_TURNS = WORK / "ledger_turns", WORK / "shadow_turns"


def facts() -> dict[str, Any]:
    """What `prepare` found: numbers and categories (names), vector and key answers, the hit rate of the lookups."""
    found: dict[str, Any] = json.loads(FACTS.read_text())
    return found


def settings(port: int = 8000, cache_s: float = 0.0) -> Any:
    """Our platform's settings: the pipeline's feature registry and online store, all else below `WORK`."""
    from mlops_ray.config import Settings

    return Settings(
        state=str(WORK / "ours"),
        data=str(DATA),
        feast_registry=f"sqlite:///{STATE}/feast_registry.db",
        online_store=f"sqlite:///{STATE}/online_store.db",
        http_port=port,
        online_cache_s=cache_s,
    )
