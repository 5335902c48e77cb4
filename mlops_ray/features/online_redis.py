"""Feast's online store in Redis: all views of a question in one pipeline."""

from collections.abc import Sequence
from typing import Any

from redis import ConnectionError as RedisConnectionError
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from mlops_ray.features.definitions import View
from mlops_ray.features.feast import Timestamp, redis_field
from mlops_ray.features.online_lookup import CONNECT_TIMEOUT_S, READ_TIMEOUT_S, Found, Keys, named


class RedisLookup:
    """See `Lookup`. The client keeps connections; one that was lost is made again, once for each question."""

    waits = True

    def __init__(self, url: str, project: str, views: Sequence[View]):
        self._project = project.encode()
        self._features = [view.features for view in views]
        self._fields = [
            [*(redis_field(f"{view.name}:{name}") for name in view.features), f"_ts:{view.name}"] for view in views
        ]
        self._client = Redis.from_url(
            url,
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            socket_timeout=READ_TIMEOUT_S,
            retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
        )

    def read(self, keys: Keys) -> Found:
        asked = [(view, key) for view, of_view in enumerate(keys) for key in of_view]
        with self._client.pipeline(transaction=False) as pipe:
            for view, key in asked:
                pipe.hmget(key + self._project, self._fields[view])  # type: ignore[arg-type]
            answers: list[Any] = pipe.execute()
        found: Found = [{} for _ in self._features]
        for (view, key), (*values, known) in zip(asked, answers, strict=True):
            if known is not None:
                features = self._features[view]
                by_name = dict(zip(features, values, strict=True))
                found[view][key] = named(by_name, features, _microseconds(known))
        return found

    def close(self) -> None:
        self._client.close()


def _microseconds(content: bytes) -> int:
    moment = Timestamp.FromString(content)
    return int(moment.seconds) * 1_000_000 + int(moment.nanos) // 1_000
