"""Reading the online store as of given moments."""

import threading
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from mlops_ray.errors import IntegrityError
from mlops_ray.features.definitions import View
from mlops_ray.features.online.breaker import Breaker
from mlops_ray.features.online.format import KeyFormat, Stored, Value
from mlops_ray.features.online.lookup import Found, Lookup
from mlops_ray.features.online.row import OnlineRow

MAX_CACHED = 50_000
_NO_KEY = b"\0"  # those of entities begin with a number of four bytes
_EPOCH, _MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)


class OnlineReader:
    """Reads the online store as of given moments, all views in one round trip.

    Feast's online store neither enforces a view's ttl nor knows the moment of a request: a value from 2013 comes back
    as present in 2026. Here a value counts only if `moment - ttl <= event timestamp <= moment`, as in a training set.

    Threads may read at the same time. Where the store fails several times in a row, reads fail at once until it is
    back (`Breaker`).
    """

    def __init__(self, lookup: Lookup, views: Sequence[View], cache_s: float = 0.0):
        """cache_s: for how long what was read of an entity is used again; its ttl counts all the same."""
        self._lookup = lookup
        self._breaker = Breaker("The online store (setting online_store)", lookup.is_away, self._probe)
        self.waits = lookup.waits
        self._features = [list(view.features) for view in views]
        self._unknown: dict[str, Value] = {name: None for names in self._features for name in names}
        # In whole microseconds, as the point-in-time join counts: a float would miss by one where a ttl ends.
        self._ttl_us = [view.ttl // _MICROSECOND for view in views]
        formats: dict[tuple[object, ...], int] = {}
        self._formats: list[tuple[tuple[str, ...], KeyFormat]] = []
        self._format_of = []  # views of the same entities share what is made of a row's keys
        for view in views:
            same = (view.keys, view.asked, *(view.types[key] for key in view.keys))
            if same not in formats:
                formats[same] = len(self._formats)
                self._formats.append((view.asked, KeyFormat(view)))
            self._format_of.append(formats[same])
        self._cache_s = cache_s
        self._cached: dict[tuple[int, bytes], tuple[float, Stored | None]] = {}
        self._counting = threading.Lock()
        self.seconds, self.reads, self.hits = 0.0, 0, 0
        self._names = [view.name for view in views]
        self.missing, self.stale = (dict.fromkeys(self._names, 0) for _ in range(2))

    def read(self, rows: Sequence[Mapping[str, Any]], moments: Sequence[datetime]) -> list[dict[str, Value]]:
        """The values alone of what `find` gives."""
        return [found.values for found in self.find(rows, moments)]

    def find(self, rows: Sequence[Mapping[str, Any]], moments: Sequence[datetime]) -> list[OnlineRow]:
        """What is known of each row of entity keys as of its moment (with a zone).

        Raises UnavailableError if the online store does not answer, IntegrityError for a row of which something is
        stored that cannot be read.
        """
        started_s = time.perf_counter()
        keys = [[_key_of(row, asked, form) for row in rows] for asked, form in self._formats]
        stored = self._stored([keys[form] for form in self._format_of])
        at_us = [microseconds(moment) for moment in moments]
        answers = [OnlineRow(dict(self._unknown)) for _ in rows]
        missing, stale = ([0] * len(self._names) for _ in range(2))
        for number, found_in_view in enumerate(stored):
            names, ttl_us = self._features[number], self._ttl_us[number]
            for answer, moment_us, key in zip(answers, at_us, keys[self._format_of[number]], strict=True):
                found = None if key is None else found_in_view.get(key)
                if found is None or moment_us < found.known_us:
                    answer.missing += names
                    missing[number] += len(names)
                elif moment_us - found.known_us > ttl_us:
                    answer.expired += names
                    stale[number] += len(names)
                elif found.unreadable:
                    row = keys[self._format_of[number]].index(key)
                    raise IntegrityError(
                        f"Row {row}: what the online store has of {', '.join(found.unreadable)} in feature view "
                        f"{self._names[number]} cannot be read. Push its values again (`mlops_ray.push`), "
                        f"and find out what else writes to the store."
                    )
                else:
                    answer.values.update(found.values)
                    answer.missing += found.absent
                    missing[number] += len(found.absent)
        with self._counting:
            self.seconds += time.perf_counter() - started_s
            self.reads += 1
            for number, name in enumerate(self._names):
                self.missing[name] += missing[number]
                self.stale[name] += stale[number]
        return answers

    def fetched(self, number: int, keys: Sequence[Sequence[Value]]) -> list[Stored | None]:
        """What the store has of keys of one view, whatever its age. Raises UnavailableError if it does not answer."""
        form = self._formats[self._format_of[number]][1]
        wanted = [form.bytes_of(key) for key in keys]
        of_views: list[list[bytes]] = [[] for _ in self._features]
        of_views[number] = list(dict.fromkeys(key for key in wanted if key is not None))
        found = self._asked(of_views)[number]
        return [None if key is None else found.get(key) for key in wanted]

    def close(self) -> None:
        """Let go of connections and threads."""
        self._breaker.close()
        self._lookup.close()

    def _stored(self, keys: Sequence[Sequence[bytes | None]]) -> Sequence[Mapping[bytes, Stored | None]]:
        """For each view what the store holds of the keys of its rows; None or nothing for one that is not there."""
        unique = [list(dict.fromkeys(key for key in of_view if key is not None)) for of_view in keys]
        if not self._cache_s:
            return self._asked(unique)
        now_s = time.monotonic()
        known: list[dict[bytes, Stored | None]] = [{} for _ in unique]
        wanted: list[list[bytes]] = [[] for _ in unique]
        for number, of_view in enumerate(unique):
            for key in of_view:
                cached = self._cached.get((number, key))
                if cached is not None and cached[0] >= now_s:
                    known[number][key] = cached[1]
                else:
                    wanted[number].append(key)
        found = self._asked(wanted)
        with self._counting:
            self.hits += sum(map(len, known))
            if len(self._cached) + sum(map(len, wanted)) > MAX_CACHED:
                self._cached.clear()
            for number, of_view in enumerate(wanted):
                for key in of_view:
                    known[number][key] = found[number].get(key)
                    self._cached[number, key] = (now_s + self._cache_s, known[number][key])
        return known

    def _asked(self, wanted: Sequence[Sequence[bytes]]) -> Found:
        """What is read of the store's answer is no matter of the store's, so the breaker hears nothing of it."""
        if not any(wanted):
            return [{} for _ in wanted]
        return self._lookup.found(self._breaker.call(lambda: self._lookup.read(wanted)))

    def _probe(self) -> None:
        self._lookup.read([[_NO_KEY], *([] for _ in self._features[1:])])


def _key_of(row: Mapping[str, Any], asked: Sequence[str], form: KeyFormat) -> bytes | None:
    """The bytes of a row's key; None where one of its values is missing, or beyond its type."""
    key = [row.get(name) for name in asked]
    return None if None in key else form.bytes_of(key)


def microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND
