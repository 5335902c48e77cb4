"""Endpoints: a served model, asked with data frames, and all that is known of how it fares."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape
from typing import Any, Self

import polars as pl

from mlops_ray.client import AsyncClient, Client
from mlops_ray.frames import FrameT, like, to_polars
from mlops_ray.monitoring.show.drift_view import DriftView
from mlops_ray.registry.trace import Trace
from mlops_ray.sdk.counting import Counting
from mlops_ray.sdk.records import Records
from mlops_ray.sdk.rollout import RolloutState
from mlops_ray.sdk.rows import plain_rows, rows_of, with_answers
from mlops_ray.sdk.versions import Versions
from mlops_ray.show.shown import Shown

ROWS_IN_REQUEST = 500
_REQUESTS_AT_A_TIME = 4
_LABELS = ("request_id", "row", "label", "known_at")
_EXPLAINED = 10


class _Named(Shown):
    """What both kinds of endpoint show."""

    def __init__(self, name: str, url: str):
        self.name, self.url = name, url

    @property
    def title(self) -> str:
        return f"Endpoint {self.name} at {self.url}"

    def _html(self) -> str:
        return (
            f"<h1>{escape(self.title)}</h1><p>predict, rollout, drift, ledger, versions, lineage, send_labels, push</p>"
        )

    def _text(self) -> str:
        return self.title


class Endpoint(_Named):
    """See `mlops_ray.endpoint`. `client`: for what has no method here."""

    def __init__(self, name: str, client: Client, records: Records, url: str):
        super().__init__(name, url)
        self.client, self._records = client, records

    def predict(self, frame: FrameT, *, as_of: datetime | None = None, explain: bool = False) -> FrameT:
        """Predict for each row of a pandas, polars or Arrow frame; gives the same kind, with the answers as columns.

        The frame has the entity keys, the event time and what else a request says (`columns`); other columns are kept.
        Any number of rows is sent in requests of 500. as_of: up to when features may be known; default: now. explain:
        with the contribution of each feature in `reasons`. Columns that are added: see docs/sdk.md.
        Raises DataError naming a column that is missing or wrong, ForbiddenError for the key, UnavailableError if the
        server does not answer, ConfigurationError if there is no such endpoint.
        """
        given, size = to_polars(frame), _EXPLAINED if explain else ROWS_IN_REQUEST
        rows, answers = rows_of(given, self.columns, self.name), []
        counting = Counting(len(rows), "rows")
        for start in range(0, len(rows), size * _REQUESTS_AT_A_TIME):
            part = rows[start : start + size * _REQUESTS_AT_A_TIME]
            if explain:
                answers += [
                    self.client.predict(self.name, keys=part[at : at + size], as_of=as_of, explain=True)
                    for at in range(0, len(part), size)
                ]
            else:
                answers += self.client.predict_many(self.name, keys=part, as_of=as_of, batch_size=size)
            counting.done(len(part))
        answered: FrameT = like(frame, with_answers(given, answers))
        return answered

    @property
    def columns(self) -> tuple[str, ...]:
        """What a row to predict for has."""
        return self.client.columns(self.name)

    def rollout(self, version: int | None = None, plan: Mapping[str, Any] | None = None) -> RolloutState:
        """Begin to let a version in, step by step; without one, what is live and how far a rollout is."""
        if version is None:
            return RolloutState(self.name, self.client.rollouts.status(self.name))
        return RolloutState(self.name, self.client.rollouts.start(self.name, version, plan))

    def promote(self, version: int, reason: str = "") -> RolloutState:
        """Make the version that comes in champion now."""
        return RolloutState(self.name, self.client.rollouts.promote(self.name, version, reason))

    def roll_back(self, version: int, reason: str = "") -> RolloutState:
        """Let `version` answer everything: end the rollout, or go back to an earlier champion."""
        return RolloutState(self.name, self.client.rollouts.roll_back(self.name, version, reason))

    def drift(self, windows: int = 60) -> DriftView:
        """What monitoring saw: alarms, quality, and each feature beside its reference, over the last windows."""
        return self._records.drift(self.name, windows)

    def ledger(
        self, start: datetime | None = None, end: datetime | None = None, columns: Sequence[str] | None = None
    ) -> pl.DataFrame:
        """The predictions answered in `start <= time < end`, each once, by time. Datetimes need a zone.

        An answer is in it up to `ledger_rotate_s` (60 s) after it was given. columns: of the ledger; by default all.
        """
        return self._records.ledger(self.name, start, end, columns)

    def versions(self) -> Versions:
        """What was registered for it, newest first."""
        return Versions(self.name, self._records.versions(self.name), self._records)

    def lineage(self, request_id: str | None = None) -> Trace:
        """Everything behind the champion, or behind a prediction."""
        return self._records.lineage(request_id or self.name)

    def send_labels(self, frame: pl.DataFrame | Any) -> int:
        """Tell what turned out to be true; gives how many labels were kept.

        The frame has `label` (null withdraws one), maybe `known_at`, and either `request_id` and `row` as `predict`
        gave them, or else the entities and the event time.
        """
        return self.client.send_labels(self.name, _labels(to_polars(frame)))

    def push(self, view: str, frame: pl.DataFrame | Any) -> int:
        """Bring fresh values of a feature view online; gives how many keys have them now. See `Client.push`."""
        return self.client.push(self.name, view, plain_rows(to_polars(frame)))


class AsyncEndpoint(_Named):
    """`Endpoint` for asyncio: the same methods as coroutines. Close it, or use it with `async with`."""

    def __init__(self, name: str, client: AsyncClient, records: Records, url: str):
        super().__init__(name, url)
        self.client, self._records = client, records

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *ended: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self.client.close()

    async def columns(self) -> tuple[str, ...]:
        """See `Endpoint.columns`."""
        return await self.client.columns(self.name)

    async def predict(self, frame: FrameT, *, as_of: datetime | None = None) -> FrameT:
        """See `Endpoint.predict`."""
        given = to_polars(frame)
        rows = rows_of(given, await self.columns(), self.name)
        answers = await self.client.predict_many(self.name, keys=rows, as_of=as_of, batch_size=ROWS_IN_REQUEST)
        answered: FrameT = like(frame, with_answers(given, answers))
        return answered

    async def rollout(self, version: int | None = None, plan: Mapping[str, Any] | None = None) -> RolloutState:
        """See `Endpoint.rollout`."""
        rollouts = self.client.rollouts
        asked = rollouts.status(self.name) if version is None else rollouts.start(self.name, version, plan)
        return RolloutState(self.name, await asked)

    async def promote(self, version: int, reason: str = "") -> RolloutState:
        """See `Endpoint.promote`."""
        return RolloutState(self.name, await self.client.rollouts.promote(self.name, version, reason))

    async def roll_back(self, version: int, reason: str = "") -> RolloutState:
        """See `Endpoint.roll_back`."""
        return RolloutState(self.name, await self.client.rollouts.roll_back(self.name, version, reason))

    async def drift(self, windows: int = 60) -> DriftView:
        """See `Endpoint.drift`."""
        return await asyncio.to_thread(self._records.drift, self.name, windows)

    async def ledger(
        self, start: datetime | None = None, end: datetime | None = None, columns: Sequence[str] | None = None
    ) -> pl.DataFrame:
        """See `Endpoint.ledger`."""
        return await asyncio.to_thread(self._records.ledger, self.name, start, end, columns)

    async def versions(self) -> Versions:
        """See `Endpoint.versions`."""
        return Versions(self.name, await asyncio.to_thread(self._records.versions, self.name), self._records)

    async def lineage(self, request_id: str | None = None) -> Trace:
        """See `Endpoint.lineage`."""
        return await asyncio.to_thread(self._records.lineage, request_id or self.name)

    async def send_labels(self, frame: pl.DataFrame | Any) -> int:
        """See `Endpoint.send_labels`."""
        return await self.client.send_labels(self.name, _labels(to_polars(frame)))

    async def push(self, view: str, frame: pl.DataFrame | Any) -> int:
        """See `Endpoint.push`."""
        return await self.client.push(self.name, view, plain_rows(to_polars(frame)))


def _labels(frame: pl.DataFrame) -> list[dict[str, Any]]:
    if "request_id" in frame.columns:
        return plain_rows(frame.select(name for name in _LABELS if name in frame.columns))
    beside = [name for name in frame.columns if name in _LABELS]
    keys = plain_rows(frame.drop(beside))
    return [{**rest, "keys": key} for rest, key in zip(plain_rows(frame.select(beside)), keys, strict=True)]
