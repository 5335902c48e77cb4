"""What takes too long is ended, and only that."""

import asyncio
import time

import pytest

from mlops_ray.serving.deadlines import LOOK_EVERY_S, Deadlines


def test_what_is_late_is_cancelled_and_raises_timeout_error() -> None:
    ended: list[str] = []

    async def never() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cleaned up")

    async def ask() -> float:
        started_s = time.monotonic()
        with pytest.raises(TimeoutError):
            await Deadlines(0.1).keep(never())
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        await asyncio.sleep(0)  # a cancellation left behind would be raised here
        return time.monotonic() - started_s

    took_s = asyncio.run(ask())
    assert ended == ["cleaned up"]
    assert took_s >= 0.1


def test_each_of_many_has_its_own_deadline() -> None:
    deadlines = Deadlines(0.3)

    async def after(delay_s: float, work_s: float) -> str:
        await asyncio.sleep(delay_s)
        try:
            return await deadlines.keep(asyncio.sleep(work_s, "done"))
        except TimeoutError:
            return "late"

    async def ask() -> list[str]:
        return await asyncio.gather(*(after(0.05 * n, 0.02 if n % 2 else 30) for n in range(10)))

    assert asyncio.run(ask()) == ["late", "done"] * 5


def test_what_is_in_time_gives_its_result_or_its_own_error() -> None:
    async def fail() -> None:
        raise KeyError("mine")

    async def ask() -> None:
        deadlines = Deadlines(5)
        assert await deadlines.keep(asyncio.sleep(0, "done")) == "done"
        with pytest.raises(KeyError, match="mine"):
            await deadlines.keep(fail())

    asyncio.run(ask())


def test_a_cancellation_from_elsewhere_is_no_timeout() -> None:
    async def ask() -> None:
        task = asyncio.create_task(Deadlines(5).keep(asyncio.sleep(30)))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(ask())


def test_a_shorter_timeout_inside_ends_only_what_it_holds() -> None:
    async def inner() -> str:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await asyncio.sleep(30)
        return "went on"

    assert asyncio.run(Deadlines(5).keep(inner())) == "went on"


def test_a_longer_timeout_inside_does_not_hide_the_deadline() -> None:
    async def inner() -> None:
        async with asyncio.timeout(30):
            await asyncio.sleep(30)

    async def ask() -> None:
        with pytest.raises(TimeoutError):
            await Deadlines(0.05).keep(inner())

    asyncio.run(ask())


def test_a_second_event_loop_is_looked_after_too() -> None:
    deadlines = Deadlines(0.05)
    for _ in range(2):  # the first loop ends before its timer fires
        assert asyncio.run(deadlines.keep(asyncio.sleep(0, "done"))) == "done"
    with pytest.raises(TimeoutError):
        asyncio.run(deadlines.keep(asyncio.sleep(30)))


def test_nothing_is_looked_after_once_all_are_done() -> None:
    async def ask() -> bool:
        deadlines = Deadlines(5)
        await deadlines.keep(asyncio.sleep(0))
        await asyncio.sleep(3 * LOOK_EVERY_S)
        return deadlines._looked_after_by is None

    assert asyncio.run(ask())
