"""One view of a project online: what should be there as of a moment, what is there, and writing what differs."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import compress

import polars as pl

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.errors import UnavailableError
from mlops_ray.features.columns import PREDICTION_TIME
from mlops_ray.features.definitions import View
from mlops_ray.features.history import source_of
from mlops_ray.features.history_source import after
from mlops_ray.features.online.format import Stored
from mlops_ray.features.online.pushes import pushed_rows
from mlops_ray.features.online.reader import OnlineReader, microseconds
from mlops_ray.features.online.store import as_kept, lookup_of, writer_of
from mlops_ray.features.online.write import BATCH_ROWS, Noted, online_values
from mlops_ray.features.point_in_time import History, newest

SAMPLE_KEYS = 1_000  # of which one is wrong with 99.99 % where one in a hundred is
_UNDER_WAY = ""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Brought:
    """keys: that have a value as of the moment. written: that were not there or differed; kept: what is newer."""

    keys: int
    written: int
    kept: int


@dataclass(frozen=True)
class OnlineView:
    """The rows of a view at `url` as of a moment, and its values online in a project.

    older: a run of a later moment has written here, so that what it left for the same moment counts.
    """

    settings: Settings
    project: str
    view: View
    url: str
    as_of: datetime
    older: bool

    def expected(self) -> pl.DataFrame:
        """What a request made at `as_of` finds of each key, of computed and of pushed rows. Of two that share key and
        moment the pushed one counts. Moments are as the store keeps them."""
        history = self._history(self.url, self.as_of)
        pushed = pushed_rows(Artifacts(self.settings.artifacts), self.project, self.view, self.as_of)
        both = pl.concat([history.rows, pushed.select(history.rows.columns)]) if pushed.height else history.rows
        return as_kept(self.settings.online_store, newest(replace(history, rows=both), self.as_of))

    def bring(self, noted: Noted | None) -> Brought:
        """Write what differs and prove that all is there.

        noted: of the last run, of which only what has changed since is compared; None to compare each key. Raises
        UnavailableError if something is not there afterwards.
        """
        expected = self.expected()
        changed = self._changed_since(noted, expected)
        done = self._write_what_differs(expected if changed is None else changed, expected.height)
        lacking = self.lacking(expected)
        if lacking is not None and changed is not None:
            _logger.warning("Since the last run values were lost: %s. All are compared again", lacking)
            again = self._write_what_differs(expected, expected.height)
            done = Brought(done.keys, done.written + again.written, again.kept)
            lacking = self.lacking(expected)
        if lacking is not None:
            raise UnavailableError(
                f"As of {self.as_of.isoformat()}, {lacking}, although they were written. Is something else writing to "
                f"the online store?"
            )
        if not self.older:
            self._note(expected, self.url)
        return done

    def lacking(self, expected: pl.DataFrame) -> str | None:
        """What of the expected rows is not online, as a sentence's end; None if all is, by count and by sample."""
        if not expected.height:
            return None
        since_us = int(expected[PREDICTION_TIME].dt.timestamp("us").min())  # type: ignore[arg-type]
        missing = expected.height - writer_of(self.settings.online_store, self.project).count(self.view, since_us)
        of = f"{expected.height:,}"
        if missing <= 0:
            sample = expected.sample(min(SAMPLE_KEYS, expected.height))
            pairs = zip(self._stored(sample), _rows(self.view, sample), strict=True)
            missing = sum(self._is_lacking(found, *row) for found, row in pairs)
            of = f"{sample.height:,}" if sample.height == expected.height else f"a sample of {sample.height:,}"
        if missing <= 0:
            return None
        return f"feature view {self.view.name}: {missing:,} of {of} keys are not online as they should be"

    def _is_lacking(self, found: Stored | None, moment_us: int, values: dict[str, object]) -> bool:
        """What is newer may have been pushed meanwhile."""
        if found is None or found.known_us < moment_us:
            return True
        return found.known_us == moment_us and not self.older and not _has(found, values)

    def _changed_since(self, noted: Noted | None, expected: pl.DataFrame) -> pl.DataFrame | None:
        """The rows that the last run did not have; None where it says nothing of what is online now."""
        if noted is None or not noted.rows or noted.as_of_us is None or noted.as_of_us > microseconds(self.as_of):
            return None
        before = _EPOCH + timedelta(microseconds=noted.as_of_us)
        try:
            known = newest(self._history(noted.rows, before), before)
        except OSError:  # its rows have been retired
            return None
        known = as_kept(self.settings.online_store, known)
        return expected.join(known, on=expected.columns, how="anti", nulls_equal=True)

    def _history(self, url: str, at: datetime) -> History:
        """The rows that may count at a moment: of a year with a ttl of hours, the files of its last day."""
        source = source_of(self.view, url, self.view.fields)
        return source.read(source.looks_back_to(at), after(at))

    def _write_what_differs(self, rows: pl.DataFrame, keys: int) -> Brought:
        """Compare and write, a batch at a time."""
        writer, written, kept = writer_of(self.settings.online_store, self.project), 0, 0
        # A store of whole seconds has what became known in this one at its end.
        at_us = max(microseconds(self.as_of), _newest_us(rows))
        for part in rows.iter_slices(BATCH_ROWS):
            stored, pairs = self._stored(part), list(_rows(self.view, part))
            judged = [self._judge(found, *pair, at_us) for found, pair in zip(stored, pairs, strict=True)]
            over = [
                max(moment_us, found.known_us if found else moment_us)
                for found, (moment_us, _) in zip(stored, pairs, strict=True)
            ]
            self._keep_pushed(part, judged, over)
            differs = [one == "differs" for one in judged]
            kept += judged.count("newer")
            if any(differs):
                if not written:
                    self._note(rows, _UNDER_WAY)
                changed = part.filter(pl.Series(differs))
                written += writer.write(
                    self.view, list(online_values(self.view, changed, list(compress(over, differs))))
                )
        return Brought(keys, written, kept)

    def _judge(self, found: Stored | None, moment_us: int, values: dict[str, object], at_us: int) -> str:
        """Whether online is the `same`, something `newer` that stays, or something that `differs`."""
        if found is None:
            return "differs"
        if found.known_us == moment_us and _has(found, values):
            return "same"
        return "newer" if found.known_us > at_us or (self.older and found.known_us >= moment_us) else "differs"

    def _keep_pushed(self, part: pl.DataFrame, judged: list[str], over_us: Sequence[int]) -> None:
        """Of rows whose newer value online would be taken back, as no row says so any more: those that were pushed
        since the rows were read stay."""
        moments = part[PREDICTION_TIME].dt.timestamp("us").to_list()
        going_back = [
            number for number, one in enumerate(judged) if one == "differs" and over_us[number] > moments[number]
        ]
        if not going_back:
            return
        pushed = pushed_rows(Artifacts(self.settings.artifacts), self.project, self.view, self.as_of)
        pushed = as_kept(self.settings.online_store, pushed)
        pushed_us = pushed[PREDICTION_TIME].dt.timestamp("us")
        known = set(zip(pushed.select(self.view.keys).iter_rows(), pushed_us, strict=True))
        keys = part.select(self.view.keys).rows()
        for number in going_back:
            if (keys[number], over_us[number]) in known:
                judged[number] = "newer"

    def _stored(self, rows: pl.DataFrame) -> list[Stored | None]:
        """What the store has of each row's key, whatever its age."""
        whole = replace(self.view, features=self.view.fields)
        lookup = lookup_of(self.settings.online_store, self.project, [whole])
        with closing(OnlineReader(lookup, [whole])) as reader:
            return reader.fetched(0, list(rows.select(self.view.keys).iter_rows()))

    def _note(self, rows: pl.DataFrame, url: str) -> None:
        noted = Noted(_newest_us(rows), microseconds(self.as_of), url)
        writer_of(self.settings.online_store, self.project).note(self.view.name, noted)


def _newest_us(rows: pl.DataFrame) -> int:
    newest: int | None = rows[PREDICTION_TIME].dt.timestamp("us").max()  # type: ignore[assignment]
    return newest or 0


def _rows(view: View, rows: pl.DataFrame) -> Iterator[tuple[int, dict[str, object]]]:
    moments = rows[PREDICTION_TIME].dt.timestamp("us").to_list()
    return zip(moments, rows.select(view.fields).iter_rows(named=True), strict=True)


def _has(found: Stored, values: dict[str, object]) -> bool:
    return not found.unreadable and all(found.values.get(name) == value for name, value in values.items())
