"""Groups across members and processes: who owns what, deaths, late commits, and the files that are left."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import logstore
from logstore.errors import FencedMemberError, LogstoreError, StoreClosedError, UnsupportedFormatError
from logstore.fs import LocalFileSystem
from logstore.names import TopicPartition
from logstore.queue import membership
from logstore.queue.assignors import ASSIGNORS
from logstore.queue.group_state import GroupMember, GroupState
from logstore.queue.membership import Member, group_ids, group_state
from logstore.queue.offsets_store import OffsetsStore
from logstore.store import Store

SPAWN = multiprocessing.get_context("spawn")
PATIENCE = 30.0
ALL = frozenset(TopicPartition("t", number) for number in range(4))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with logstore.open(tmp_path / "store") as opened:
        opened.create_topic("t", 4)
        yield opened


def settle(*members: Member) -> None:
    """Let all see what the others do until nothing changes any more."""
    for _ in range(10):
        for member in members:
            if member.review().lost:
                member.give_up()
        owned = [partition for member in members for partition in member.owned]
        assert len(owned) == len(set(owned))


def files(store: Store, suffix: str) -> list[str]:
    names = [name for name in os.listdir(store.paths[0]) if name.startswith(".logstore-group-")]
    return [name for name in names if name.endswith(suffix)]


# ---- who owns what


def test_a_member_alone_owns_all(store: Store) -> None:
    member = Member(store, "g", ["t"])
    assert member.review().gained == ALL == member.owned
    assert member.generation == 1
    assert member.review() == (frozenset(), frozenset(), False)
    member.leave()


@pytest.mark.parametrize("assignor", sorted(ASSIGNORS))
def test_partitions_are_shared_and_taken_over(store: Store, assignor: str) -> None:
    one, other = Member(store, "g", ["t"], assignor), Member(store, "g", ["t"], assignor)
    one.review()
    settle(one, other)
    assert (len(one.owned), len(other.owned)) == (2, 2)
    generation = one.generation
    assert other.generation == generation > 1
    one.leave()
    assert one.owned == frozenset()
    settle(other)
    assert other.owned == ALL
    assert other.generation > generation
    other.leave()
    assert group_state(store, "g").members == {}
    assert files(store, ".member") == []


@pytest.mark.kafka("GROUP-88")
def test_a_partition_moves_only_after_its_owner_has_given_it_up(store: Store) -> None:
    one = Member(store, "g", ["t"], "cooperative-sticky")
    one.review()
    other = Member(store, "g", ["t"], "cooperative-sticky")
    assert other.review().gained == frozenset()
    review = one.review()
    assert len(review.lost) == 2 and one.owned == ALL
    assert other.review().gained == frozenset()
    one.give_up()
    assert other.review().gained == review.lost == other.owned
    assert one.owned == ALL - review.lost
    assert other.generation == 3  # two rebalances: one to give up, one to take
    one.leave()
    other.leave()


def test_what_is_given_up_is_what_the_review_has_told_whoever_comes_or_goes_meanwhile(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = iter("cba")  # partitions are divided in the order of these: the first one has the least right to many
    monkeypatch.setattr(membership, "uuid4", lambda: SimpleNamespace(hex=next(ids)))
    one, other = Member(store, "g", ["t"]), Member(store, "g", ["t"])
    one.review()
    other.review()
    lost = one.review().lost
    assert len(lost) == 2
    third = Member(store, "g", ["t"])
    third.review()  # now it is to lose a third one, of which it does not know
    assert one.give_up() == frozenset()
    assert one.owned == ALL - lost
    (more,) = one.review().lost
    assert more in ALL - lost
    other.leave()
    third.leave()  # now it is to keep it
    assert one.give_up() == lost | {more}
    assert one.owned == ALL
    one.leave()


def test_a_member_that_ends_without_a_word_loses_its_partitions_at_once(store: Store) -> None:
    one, other = Member(store, "g", ["t"]), Member(store, "g", ["t"])
    one.review()
    settle(one, other)
    one.abandon()
    assert other.review().gained | other.owned == ALL
    assert len(files(store, ".member")) == 1
    other.leave()


def test_members_get_what_they_subscribe_to_and_new_partitions(store: Store) -> None:
    store.create_topic("u", 1)
    one, other = Member(store, "g", ["t"]), Member(store, "g", ["u", "later"])
    settle(one, other)
    assert one.owned == ALL
    assert other.owned == {TopicPartition("u", 0)}
    store.grow_topic("u", 2)
    store.create_topic("later")
    assert other.review().gained == frozenset()
    assert other.review(["u", "later"]).gained == {TopicPartition("u", 1), TopicPartition("later", 0)}
    assert one.review(["u"]).lost == ALL
    one.give_up()
    settle(one, other)
    assert {one.topic for one in one.owned} == {"u"}
    for member in (one, other):
        member.leave()


def test_another_assignor_than_the_groups_is_refused(store: Store) -> None:
    one = Member(store, "g", ["t"])
    one.review()
    other = Member(store, "g", ["t"], "sticky")
    with pytest.raises(LogstoreError, match="assignor range, not sticky"):
        other.review()
    one.leave()
    assert other.review().gained == ALL
    other.leave()
    with pytest.raises(ValueError, match="no assignor"):
        Member(store, "g", ["t"], "mine")


# ---- fencing


def test_late_commits_are_fenced(store: Store) -> None:
    one = Member(store, "g", ["t"])
    one.review()
    with one.fenced(ALL, generation=1):
        pass
    other = Member(store, "g", ["t"])
    other.review()
    with pytest.raises(FencedMemberError, match=r"generation 1 .* is past; it is at 2"), one.fenced(ALL, generation=1):
        pass
    with one.fenced(ALL):
        pass  # nobody else owns them yet
    settle(one, other)
    with pytest.raises(FencedMemberError, match=r"does not own t-2, t-3|does not own t-0, t-1"), one.fenced(ALL):
        pass
    one.leave()
    with pytest.raises(FencedMemberError, match="left"), one.fenced([]):
        pass
    other.leave()


def test_a_member_that_was_taken_for_dead_is_told_and_comes_back(store: Store) -> None:
    one = Member(store, "g", ["t"])
    one.review()
    (name,) = files(store, ".member")
    os.unlink(store.paths[0] / name)
    other = Member(store, "g", ["t"])
    assert other.review().gained == ALL
    with pytest.raises(FencedMemberError, match="no member"), one.fenced(ALL):
        pass
    with pytest.raises(FencedMemberError):
        one.give_up()
    review = one.review()
    assert review.is_fenced and review.lost == ALL
    assert one.owned == frozenset()
    settle(one, other)
    assert (len(one.owned), len(other.owned)) == (2, 2)
    one.leave()
    other.leave()


# ---- files


@pytest.mark.parametrize("group", ["g", "a/b", "..", "x" * 30_000, "ü\ud800\0", " ", "g.state", "-"])
def test_any_text_is_a_group(store: Store, group: str) -> None:
    member = Member(store, group, ["t"])
    assert member.review().gained == ALL
    assert all(len(name) < 150 for name in os.listdir(store.paths[0]))
    assert group_state(store, group).generation == 1
    if "\ud800" not in group:
        assert group_ids(store) == [group]
    member.leave()


@pytest.mark.parametrize("group", ["", None, 7, "x" * 40_000])
def test_what_is_no_group_id_is_refused(store: Store, group: Any) -> None:
    with pytest.raises(ValueError, match="group id"):
        Member(store, group, ["t"])


def test_groups_that_look_alike_have_files_of_their_own(store: Store) -> None:
    members = [Member(store, group, ["t"]) for group in ("a/b", "a_b", "a b", "a/b2")]
    assert all(member.review().gained == ALL for member in members)
    for member in members:
        member.leave()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"version": 1}', b"\0" * 100])
def test_a_state_that_a_power_cut_has_left_is_begun_anew(store: Store, content: bytes) -> None:
    member = Member(store, "g", ["t"])
    member.review()
    member.leave()
    (name,) = files(store, ".state")
    (store.paths[0] / name).write_bytes(content)
    again = Member(store, "g", ["t"])
    assert again.review().gained == ALL
    again.leave()


def test_a_state_of_a_newer_version_is_refused(store: Store) -> None:
    member = Member(store, "g", ["t"])
    member.review()
    (name,) = files(store, ".state")
    found = json.loads((store.paths[0] / name).read_bytes())
    (store.paths[0] / name).write_text(json.dumps({**found, "version": 2}))
    with pytest.raises(UnsupportedFormatError, match="newer"):
        member.review()
    with pytest.raises(LogstoreError, match="other"):
        GroupState.parse(json.dumps(found).encode(), "other")
    member.abandon()


def test_the_generation_goes_on_after_all_have_left(store: Store) -> None:
    for generation in (1, 2, 3):
        member = Member(store, "g", ["t"])
        member.review()
        assert member.generation == generation
        member.leave()
        member.leave()


def test_a_member_whose_store_is_closed_leaves_all_the_same(tmp_path: Path) -> None:
    with logstore.open(tmp_path / "store") as store:
        store.create_topic("t")
        member = Member(store, "g", ["t"])
        member.review()
    with pytest.raises(StoreClosedError):
        member.leave()
    with logstore.open(tmp_path / "store") as again:
        assert group_state(again, "g").members == {}


def test_the_state_is_the_same_after_writing_and_reading() -> None:
    member = GroupMember(("t",), ALL, frozenset([TopicPartition("t", 1)]), 2)
    state = GroupState("g", "range", 3, {"m": member}, {"t": 4})
    assert GroupState.parse(state.format(), "g") == state


# ---- processes


def own(path: str, seed: int, log: str, seconds: float) -> None:
    """Be a member; hold an exclusive lock on each owned partition, and commit for it now and then."""
    fs, chance, end = LocalFileSystem(), random.Random(seed), time.monotonic() + seconds
    with logstore.open(path) as store:
        offsets, held = OffsetsStore(store), dict[TopicPartition, Any]()
        member = Member(store, "g", ["t"], "sticky")

        def take(partitions: frozenset[TopicPartition]) -> None:
            for one in partitions:
                lock = fs.open_lock(f"{log}.{one}")
                if not lock.acquire():
                    Path(f"{log}.twice").write_text(f"{one} is owned by two")
                held[one] = lock

        while time.monotonic() < end:
            review = member.review()
            take(review.gained)
            if review.lost:
                for one in review.lost:
                    held.pop(one).close()
                take(member.give_up())
            if held and chance.random() < 0.3:
                with member.fenced(held.keys()):
                    offsets.commit("g", dict.fromkeys(held, chance.randrange(100)))
            time.sleep(chance.random() * 0.005)
        for lock in held.values():
            lock.close()
        member.leave()


def start(target: Callable[..., None], *arguments: Any) -> BaseProcess:
    process = SPAWN.Process(target=target, args=arguments, daemon=True)
    process.start()
    return process


def owners(store: Store) -> list[int]:
    return sorted(len(member.owned) for member in group_state(store, "g").members.values())


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_of_processes_that_come_go_and_are_killed_no_two_own_a_partition(store: Store, tmp_path: Path) -> None:
    path, log = str(store.paths[0]), str(tmp_path / "held")
    first, *rest = [start(own, path, seed, log, 60.0) for seed in range(3)]
    until(lambda: owners(store) == [1, 1, 2])
    generation = group_state(store, "g").generation
    assert first.pid is not None
    os.kill(first.pid, signal.SIGKILL)
    first.join(PATIENCE)
    killed = time.monotonic()
    until(lambda: owners(store) == [2, 2])
    assert time.monotonic() - killed < 2.0
    assert group_state(store, "g").generation > generation
    passing = start(own, path, 9, log, 0.5)
    passing.join(PATIENCE)
    assert passing.exitcode == 0
    until(lambda: owners(store) == [2, 2])
    assert len(files(store, ".member")) == 2
    for process in rest:
        process.kill()
        process.join(PATIENCE)
    assert owners(store) == []
    assert files(store, ".member") == []
    assert not Path(f"{log}.twice").exists()
    assert OffsetsStore(store).committed("g").keys() == ALL
