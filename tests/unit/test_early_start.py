"""Ray and the endpoint of a command start beside its work, and end with it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mlops_ray.cli import early_start
from mlops_ray.cli.early_start import EarlyStart
from mlops_ray.config import Settings
from mlops_ray.errors import UnavailableError
from mlops_ray.serving import local


class Fake:
    """In place of Ray and Serve: what was done, and in which thread."""

    def __init__(self, own: bool = True, broken: bool = False):
        self.own, self.broken = own, broken
        self.done: list[str] = []
        self.threads: set[int] = set()

    def prepare(self, settings: Settings, serving: bool) -> bool:
        return self.own

    @contextmanager
    def running(self, settings: Settings, own: bool, gives_way: bool) -> Iterator[bool]:
        self.gives_way = gives_way
        self.do("ray")
        if self.broken:
            raise UnavailableError("Ray does not answer.")
        yield own
        self.do("end of ray")

    def serve(self) -> None:
        self.do("serve")

    def do(self, what: str) -> None:
        self.done.append(what)
        self.threads.add(threading.get_ident())


def started(fake: Fake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, serving: bool = True) -> EarlyStart:
    monkeypatch.setattr(early_start, "prepare_ray", fake.prepare)
    monkeypatch.setattr(early_start, "running_ray", fake.running)
    monkeypatch.setattr(local, "stop", lambda: fake.done.append("stop"))
    monkeypatch.setattr(early_start.signal, "signal", lambda number, handler: None)
    return EarlyStart(Settings(state=str(tmp_path), data=str(tmp_path)), serving)


def test_an_endpoint_that_was_begun_is_started_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = Fake()
    with started(fake, monkeypatch, tmp_path) as early:
        early.begin_serving(fake.serve)
        early.serve(fake.serve)
    assert fake.done == ["ray", "serve", "end of ray"]
    assert len(fake.threads) == 1  # Ray's processes die with the thread that started them


def test_where_a_step_runs_after_all_the_endpoint_gives_its_cpus_back(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = Fake()
    with started(fake, monkeypatch, tmp_path) as early:
        early.begin_serving(fake.serve)
        early.ray()
        early.ray()
        early.serve(fake.serve)
    assert fake.done == ["ray", "serve", "stop", "serve", "end of ray"]


def test_on_a_cluster_of_others_nothing_is_served_before_its_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = Fake(own=False)
    with started(fake, monkeypatch, tmp_path) as early:
        early.begin_serving(fake.serve)
        early.ray()
        assert fake.done == ["ray"]
        early.serve(fake.serve)
    assert fake.done == ["ray", "serve", "end of ray"]


def test_without_need_there_is_no_ray(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = Fake()
    with started(fake, monkeypatch, tmp_path, serving=False):
        pass
    assert fake.done == []


def test_what_goes_wrong_beside_the_work_is_raised_where_it_is_needed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = Fake(broken=True)
    with started(fake, monkeypatch, tmp_path) as early, pytest.raises(UnavailableError, match="does not answer"):
        early.ray()
    with started(Fake(), monkeypatch, tmp_path) as early:
        early.begin_serving(lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            early.serve(fake.serve)
