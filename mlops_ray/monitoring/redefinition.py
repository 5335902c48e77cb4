"""What begins anew: a version that takes no traffic any more, or is judged by another revision of monitoring."""

from dataclasses import replace
from datetime import datetime

from mlops_ray.monitoring.alarm_change import AlarmChange
from mlops_ray.monitoring.error_stream import ErrorStream
from mlops_ray.monitoring.version_watch import Observed, VersionWatch, Watched, fresh_stream


def retire(watch: VersionWatch, at: datetime) -> Observed:
    """The version takes no traffic any more: its alarms are over, and its windows begin anew if it comes back."""
    return _begun_anew(watch, at, "The version takes no traffic any more.")


def redefine(watch: VersionWatch, watched: Watched, at: datetime) -> Observed:
    """The version is judged by another revision from now on. An open window of a kind that both have, with the same
    segments, goes on, and is judged by what holds when it ends; of others it ends unjudged. Alarms are over, and what
    traffic has taught of thresholds was about others. Finished windows stay, with what was said of them."""
    ended = _begun_anew(watch, at, f"Monitoring was set anew (revision {watched.revision}).")
    streams = {}
    for name, stream in ended.watch.streams.items():
        before, monitored = watch.streams[name], watched.reference.windows.get(name)
        stream = replace(stream, lived={}, last=None)
        if monitored is not None:
            fresh = fresh_stream(monitored.spec, watched.reference).state
            counted, same = before.state, fresh.empty.keys() == before.state.empty.keys()
            goes_on = same and (fresh.spec, fresh.sample_rows) == (counted.spec, counted.sample_rows)
            state = before.state if goes_on else replace(fresh, next_pane=stream.state.next_pane)
            stream = replace(stream, state=state, waiting=before.waiting if goes_on else None)
        streams[name] = stream
    return replace(ended, watch=replace(ended.watch, streams=streams, revision=watched.revision))


def _begun_anew(watch: VersionWatch, at: datetime, why: str) -> Observed:
    changes = tuple(
        AlarmChange("resolved", id, watch.version, question, why, "info", at) for question, id in watch.raised.items()
    )
    streams = {
        name: replace(stream, state=stream.state.anew(), alarms={}, waiting=None)
        for name, stream in watch.streams.items()
    }
    return Observed(replace(watch, streams=streams, raised={}, errors=ErrorStream(), severities={}), changes)
