"""The simulation of many replicas, small: a rollback reaches each within seconds, however far their clocks are off."""

from benchmarks import replicas


def test_a_rollback_reaches_every_replica_within_seconds_whatever_their_clocks_show() -> None:
    with replicas.postgresql(100) as url:
        done = replicas.simulate(url, 12, watched_s=2.0)
    assert len(done.reached_s) == 12
    assert max(done.reached_s) <= 5
