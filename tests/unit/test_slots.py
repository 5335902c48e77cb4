"""A replica's slots: who works, who waits, and what one caller leaves to the others."""

import asyncio
from collections import Counter

import pytest

from mlops_ray.serving.http_error import HttpError
from mlops_ray.serving.slots import Room, Slots


class Callers:
    """Requests that work until they are told to end."""

    def __init__(self, slots: Slots):
        self.slots, self.order = slots, list[str]()
        self.tasks: list[asyncio.Task[int]] = []
        self.ending = asyncio.Event()
        self.at_work: Counter[str] = Counter()

    async def begin(self, caller: str, count: int = 1) -> list[asyncio.Task[int]]:
        made = [asyncio.create_task(self._work(caller)) for _ in range(count)]
        self.tasks += made
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return made

    async def _work(self, caller: str) -> int:
        try:
            await self.slots.take(caller)
        except HttpError as error:
            return error.status
        self.at_work[caller] += 1
        self.order.append(caller)
        try:
            await self.ending.wait()
        finally:
            self.at_work[caller] -= 1
            self.slots.give_back(caller)
        return 200

    async def end(self) -> Counter[int]:
        self.ending.set()
        return Counter(await asyncio.gather(*self.tasks))


def test_more_than_may_wait_are_told_to_come_back() -> None:
    async def ask() -> Counter[int]:
        callers = Callers(Slots(4, 2))
        await callers.begin("a", 9)
        return await callers.end()

    assert asyncio.run(ask()) == {200: 6, 429: 3}


def test_one_caller_leaves_an_eighth_of_the_slots_to_the_others() -> None:
    async def ask() -> tuple[Counter[str], Counter[int]]:
        callers = Callers(Slots(64, 32))
        await callers.begin("greedy", 96)
        await callers.begin("other", 3)
        return +callers.at_work, await callers.end()

    at_work, statuses = asyncio.run(ask())
    assert at_work == {"greedy": 56, "other": 3}
    assert statuses == {200: 56 + 32 + 3, 429: 8}


def test_callers_take_turns_however_many_requests_one_of_them_has_waiting() -> None:
    async def ask() -> list[str]:
        callers = Callers(Slots(1, 8))
        await callers.begin("a", 5)
        await callers.begin("b", 2)
        await callers.end()
        return callers.order

    assert asyncio.run(ask()) == ["a", "a", "b", "a", "b", "a", "a"]


def test_who_has_most_waiting_gives_way() -> None:
    async def ask() -> tuple[list[int], list[int]]:
        callers = Callers(Slots(1, 4))
        greedy = await callers.begin("greedy", 5)
        other = await callers.begin("other", 3)
        await callers.end()
        return [task.result() for task in greedy], [task.result() for task in other]

    greedy, other = asyncio.run(ask())
    assert greedy == [200, 200, 200, 429, 429]
    assert other == [200, 200, 429]


def test_who_gives_up_takes_no_slot() -> None:
    async def ask() -> None:
        callers = Callers(Slots(1, 3))
        first, second, third = await callers.begin("a", 3)
        second.cancel()
        first.cancel()
        await asyncio.gather(first, second, return_exceptions=True)
        assert callers.at_work == {"a": 1}
        third.cancel()
        await asyncio.gather(third, return_exceptions=True)
        await callers.begin("a")
        assert callers.at_work == {"a": 1}
        callers.tasks = callers.tasks[3:]
        assert await callers.end() == {200: 1}

    asyncio.run(ask())


def test_who_is_called_up_and_cancelled_in_one_turn_gives_the_slot_back() -> None:
    async def ask() -> None:
        callers = Callers(Slots(1, 3))
        first, second, third = await callers.begin("a", 3)
        callers.ending.set()
        callers.slots.give_back("a")  # the second is called up; its task has not run yet
        callers.slots._busy += 1
        callers.slots._at_work["a"] += 1
        second.cancel()
        done = await asyncio.gather(first, second, third, return_exceptions=True)
        assert [done[0], done[2]] == [200, 200]

    asyncio.run(ask())


def test_bodies_have_so_much_room_and_one_caller_not_all_of_it() -> None:
    room = Room(800, "bytes of bodies here")
    room.take("a", 700)
    with pytest.raises(HttpError, match="Ask again") as refused:
        room.take("a", 1)
    assert refused.value.status == 429
    room.take("b", 100)
    with pytest.raises(HttpError):
        room.take("c", 1)
    room.give_back("a", 700)
    room.take("c", 700)
