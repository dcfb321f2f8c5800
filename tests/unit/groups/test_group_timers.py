"""Deadlines that are set, put off and cleared."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from logstore.groups.timers import Timers


def passed(timers: Timers[str], now_ms: int) -> list[str]:
    return [key for key in timers.due(now_ms) if timers.take(key, now_ms)]


def test_deadlines_pass_in_their_order() -> None:
    timers: Timers[str] = Timers()
    for key, at in (("c", 30), ("a", 10), ("b", 10)):
        timers.set(key, at)
    assert timers.next_ms == 10
    assert passed(timers, 9) == []
    assert passed(timers, 29) == ["a", "b"]
    assert timers.next_ms == 30
    assert passed(timers, 30) == ["c"]
    assert timers.next_ms is None


def test_a_deadline_that_is_put_off_or_brought_forward_passes_once_at_its_new_time() -> None:
    timers: Timers[str] = Timers()
    timers.set("a", 10)
    timers.set("a", 50)
    assert (timers.next_ms, passed(timers, 49)) == (50, [])
    timers.set("a", 20)
    assert (timers.next_ms, passed(timers, 60), timers.next_ms) == (20, ["a"], None)


def test_what_is_cleared_or_put_off_between_due_and_take_does_not_pass() -> None:
    timers: Timers[str] = Timers()
    for key in "abc":
        timers.set(key, 10)
    due = timers.due(10)
    timers.clear("a")
    timers.set("b", 20)
    assert [timers.take(key, 10) for key in due] == [False, False, True]
    assert passed(timers, 20) == ["b"]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9) | st.none()), max_size=30), st.data())
def test_timers_do_what_a_table_does(steps: list[tuple[str, int | None]], data: st.DataObject) -> None:
    timers: Timers[str] = Timers()
    table: dict[str, int] = {}
    now = 0
    for key, delay in steps:
        if delay is None:
            timers.clear(key)
            table.pop(key, None)
        else:
            timers.set(key, now + delay)
            table[key] = now + delay
        assert timers.next_ms == min(table.values(), default=None)
        now += data.draw(st.integers(0, 3))
        assert sorted(passed(timers, now)) == sorted(one for one, at in table.items() if at <= now)
        table = {one: at for one, at in table.items() if at > now}
        assert all((one in timers) == (one in table) for one in "abc")
