"""What the FastAPI servers declare as their input, as FastAPI's users do."""

from datetime import datetime

from pydantic import BaseModel, create_model

from contest import work

_facts = work.facts()
Features = create_model(
    "Features",
    **dict.fromkeys(_facts["numbers"], (float | None, ...)),
    **dict.fromkeys(_facts["categories"], (str, ...)),
)


class Vector(BaseModel):
    features: Features


class Flight(BaseModel):
    carrier: str
    flight: int
    origin: str
    dest: str
    tailnum: str
    scheduled_departure: datetime


class Keys(BaseModel):
    keys: Flight
    as_of: datetime
