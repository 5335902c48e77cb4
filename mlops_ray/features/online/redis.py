"""Feast's online store in Redis: all views of a question in one pipeline."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any

from redis import ConnectionError as RedisConnectionError
from redis import Redis, RedisError
from redis import TimeoutError as RedisTimeoutError
from redis.backoff import NoBackoff
from redis.retry import Retry

from mlops_ray.errors import UnavailableError
from mlops_ray.features.definitions import View
from mlops_ray.features.feast import Timestamp, redis_field, serialize_entity_key_prefix
from mlops_ray.features.online.format import stored
from mlops_ray.features.online.lookup import CONNECT_TIMEOUT_S, READ_TIMEOUT_S, Found, Keys
from mlops_ray.features.online.write import BATCH_ROWS, NOTES, WRITE_TIMEOUT_S, Noted, OnlineValues

# A moment is stored as a `Timestamp` message: field 1 has seconds, field 2 nanoseconds, each a varint. Of one before
# 1970 the seconds are 64 bits of two's complement, in ten bytes.
_READ_MOMENT = """
local function microseconds(content)
  local at, parts = 1, {0, 0}
  while at <= #content do
    local field = math.floor(string.byte(content, at) / 8)
    local value, inverse, scale, first = 0, 0, 1, at + 1
    repeat
      at = at + 1
      local byte = string.byte(content, at)
      if at - first < 9 then
        value = value + byte % 128 * scale
        inverse = inverse + (127 - byte % 128) * scale
      end
      scale = scale * 128
    until byte < 128
    parts[field] = at - first < 9 and value or -(inverse + 1)
    at = at + 1
  end
  return parts[1] * 1000000 + math.floor(parts[2] / 1000)
end
"""
# KEYS: of the entity. ARGV: field of the moment, the latest moment that may be replaced, then what to set.
_WRITE = (
    _READ_MOMENT
    + """
local there = redis.call('HGET', KEYS[1], ARGV[1])
if there and microseconds(there) > tonumber(ARGV[2]) then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV, 3))
return 1
"""
)
# KEYS: of the notes. ARGV: view, its newest moment, and what was materialized last, or nothing.
_NOTE = """
local before = redis.call('HGET', KEYS[1], ARGV[1])
local noted = before and cjson.decode(before) or {newest_us = ARGV[2]}
if tonumber(ARGV[2]) > tonumber(noted.newest_us) then noted.newest_us = ARGV[2] end
if ARGV[3] ~= '' then noted.as_of_us = ARGV[3]; noted.rows = ARGV[4] end
redis.call('HSET', KEYS[1], ARGV[1], cjson.encode(noted))
return 1
"""


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

    def read(self, keys: Keys) -> list[Any]:
        views_of: dict[bytes, list[int]] = {}  # Feast keeps all views of an entity under one key of Redis: one command
        for view, of_view in enumerate(keys):
            for key in of_view:
                views_of.setdefault(key, []).append(view)
        with self._client.pipeline(transaction=False) as pipe:
            for key, views in views_of.items():
                pipe.hmget(key + self._project, [field for view in views for field in self._fields[view]])  # type: ignore[arg-type]
            return list(zip(views_of.items(), pipe.execute(), strict=True))

    def found(self, rows: list[Any]) -> Found:
        found: Found = [{} for _ in self._features]
        for (key, views), values in rows:
            first = 0
            for view in views:
                features = self._features[view]
                moment = first + len(features)
                if (known := values[moment]) is not None:
                    by_name = dict(zip(features, values[first:moment], strict=True))
                    found[view][key] = stored(features, by_name, _microseconds(known))
                first = moment + 1
        return found

    def is_away(self, error: Exception) -> bool:
        return isinstance(error, RedisConnectionError | RedisTimeoutError | OSError)

    def close(self) -> None:
        self._client.close()


def _microseconds(content: bytes) -> int:
    moment = Timestamp.FromString(content)
    return int(moment.seconds) * 1_000_000 + int(moment.nanos) // 1_000


def _timestamp(moment_us: int) -> bytes:
    seconds, rest = divmod(moment_us, 1_000_000)
    return bytes(Timestamp(seconds=seconds, nanos=rest * 1_000).SerializeToString())


class RedisWriter:
    """See `Writer`. A script compares and sets each key at once, whoever else writes to it."""

    def __init__(self, url: str, project: str):
        self._url, self._project = url, project
        self._notes = f"{NOTES}:{project}:views"  # which is no name that ends with the project, as those of keys do

    def write(self, view: View, rows: Sequence[OnlineValues]) -> int:
        fields = [redis_field(f"{view.name}:{name}") for name in view.fields]
        moment, project = f"_ts:{view.name}", self._project.encode()
        written = 0
        with self._client() as client:
            script = client.register_script(_WRITE)
            for at in range(0, len(rows), BATCH_ROWS):
                with client.pipeline(transaction=False) as pipe:
                    for row in rows[at : at + BATCH_ROWS]:
                        pairs = [part for pair in zip(fields, row.contents, strict=True) for part in pair]
                        given = [moment, row.over_us, moment, _timestamp(row.known_us), *pairs]
                        script(keys=[row.key + project], args=given, client=pipe)
                    written += sum(pipe.execute())
        return written

    def count(self, view: View, since_us: int) -> int:
        """Of each key of the view's entities the moment is read, as nothing counts them."""
        prefix, project = serialize_entity_key_prefix(sorted(view.keys)), self._project.encode()
        counted = 0
        with self._client() as client:
            found: list[bytes] = []
            for name in client.scan_iter(match=f"*{self._project}", count=BATCH_ROWS):
                if name.startswith(prefix) and name.endswith(project):
                    found.append(name)
                if len(found) == BATCH_ROWS:
                    counted += _count_since(client, found, view, since_us)
                    found = []
            return counted + _count_since(client, found, view, since_us)

    def notes(self) -> Mapping[str, Noted]:
        with self._client() as client:
            found: dict[bytes, bytes] = client.hgetall(self._notes)  # type: ignore[assignment]
        return {view.decode(): _noted(json.loads(content)) for view, content in found.items()}

    def note(self, view: str, noted: Noted) -> None:
        with self._client() as client:
            done = ("", "") if noted.as_of_us is None else (noted.as_of_us, noted.rows or "")
            client.register_script(_NOTE)(keys=[self._notes], args=[view, noted.newest_us, *done])

    @contextmanager
    def _client(self) -> Iterator[Redis]:
        timeouts = {"socket_connect_timeout": CONNECT_TIMEOUT_S, "socket_timeout": WRITE_TIMEOUT_S}
        try:
            with closing(Redis.from_url(self._url, **timeouts)) as client:
                yield client
        except RedisError as error:
            raise UnavailableError(f"The online store does not answer: {error}. Is it running?") from error


def _count_since(client: Redis, keys: Sequence[bytes], view: View, since_us: int) -> int:
    with client.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.hget(key, f"_ts:{view.name}")  # type: ignore[arg-type]
        return sum(moment is not None and _microseconds(moment) >= since_us for moment in pipe.execute())


def _noted(value: Mapping[str, Any]) -> Noted:
    """As the script keeps it: numbers as texts, of which Lua's own lose digits."""
    as_of_us = value.get("as_of_us")
    return Noted(int(value["newest_us"]), None if as_of_us is None else int(as_of_us), value.get("rows"))
