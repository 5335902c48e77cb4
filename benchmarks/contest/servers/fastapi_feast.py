"""FastAPI, Feast and scikit-learn: keys in, all feature views of flights read from the online store."""

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from fastapi import FastAPI
from feast import FeatureStore, RepoConfig

from contest import work
from contest.servers.flight import Keys
from contest.servers.pipeline_row import PipelineRow

NEW_YORK = ZoneInfo("America/New_York")

app = FastAPI()
model = PipelineRow()
names = [*work.facts()["numbers"], *work.facts()["categories"]]
store = FeatureStore(
    config=RepoConfig(
        project=work.facts()["feature_project"],
        provider="local",
        entity_key_serialization_version=3,
        registry={"registry_type": "sql", "path": f"sqlite:///{work.STATE}/feast_registry.db", "cache_ttl_seconds": 60},
        online_store={"type": "sqlite", "path": str(work.STATE / "online_store.db")},
    )
)
service = store.get_feature_service("flights")


@app.post("/predict")
async def predict(body: Keys) -> dict[str, float]:
    keys = body.keys.model_dump()
    departure = keys.pop("scheduled_departure")
    read = store.get_online_features(features=service, entity_rows=[keys]).to_dict()
    known = {**keys, **_of_request(departure), **{name: values[0] for name, values in read.items()}}
    return {"probability": model.probability({name: known[name] for name in names})}


def _of_request(departure: datetime) -> dict[str, Any]:
    local = departure.astimezone(NEW_YORK)
    return {"hour": local.hour + local.minute / 60, "weekday": local.isoweekday()}
