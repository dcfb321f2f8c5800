"""The judges of killed processes: what may be passes, and each thing that must not be is found in a forged journal."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from torture_crew import Journal
from torture_groups import GroupTally, digest_of, judge_group
from torture_processes import Numbered, judge_log
from torture_queue_judge import Letter, QueueTally, judge_queue
from torture_transactions import judge_copies

from logstore.queue.work_queue_job import QueueStats


def edited(text: str, old: str, new: str) -> list[list[str]]:
    """The words of each line, after some were put in the place of others."""
    assert text.count(old) == 1 or not old
    changed = text.replace(old, new) if old else text
    return [line.split() for line in changed.splitlines() if line]


def test_a_line_that_was_cut_off_is_left_out_and_the_next_one_is_not(tmp_path: Path) -> None:
    first, second = (Journal(tmp_path / "journal") for _ in range(2))
    first.tell("got", "a", 1)
    with (tmp_path / "journal").open("a") as file:
        file.write("\ngot b 12")
    second.tell("got", "c", 3)
    assert list(first.lines()) == [["got", "a", "1"], ["got", "c", "3"]]
    for one in (first, second):
        one.close()


# ---------------------------------------------------------------- a log

RECORDS = [[Numbered("k", 0, 0), Numbered("l", 1, 1), Numbered("k", 2, 2)], [Numbered("k", 3, 0)]]
ACKS = "ack k 0 0 0\nack k 2 0 2\nack k 3 1 0\n"


@pytest.mark.parametrize(
    ("old", "new", "records", "said"),
    [
        ("", "", RECORDS, ""),
        ("ack k 3 1 0", "ack k 3 1 1", RECORDS, "k 3 is not at 1:1"),
        ("ack k 3 1 0", "ack k 4 1 1", RECORDS, "k 4 is not at 1:1"),
        ("", "", [RECORDS[0], [*RECORDS[1], Numbered("k", 3, 1)]], "k 3 is there twice"),
        ("", "", [[*RECORDS[0][1:], RECORDS[0][0]], RECORDS[1]], "behind 2"),
    ],
)
def test_what_a_log_has_lost_or_has_twice_or_out_of_order_is_found(
    old: str, new: str, records: list[list[Numbered]], said: str
) -> None:
    problems = judge_log(records, edited(ACKS, old, new))
    assert said in problems[0] if said else not problems


# ---------------------------------------------------------------- copies

COPIES = [[Numbered("k", 0, 0), Numbered("k", 2, 5)], [Numbered("l", 1, 3), Numbered("k", 3, 7)]]


@pytest.mark.parametrize(
    ("copies", "said"),
    [
        (COPIES, ""),
        ([COPIES[0], COPIES[1][:1]], "k 3 was never copied"),
        ([COPIES[0], [*COPIES[1], Numbered("k", 3, 9)]], "k 3 is there twice"),
        ([COPIES[0], [*COPIES[1], Numbered("m", 3, 9)]], "m 3 was copied, and is not in the source"),
        ([COPIES[0][::-1], COPIES[1]], "k 0 is at 0:0, behind 2"),
    ],
)
def test_what_was_lost_or_doubled_or_mixed_up_in_transactions_is_found(
    copies: list[list[Numbered]], said: str
) -> None:
    problems = judge_copies(RECORDS, copies)
    assert said in problems[0] if said else not problems


# ---------------------------------------------------------------- a group

CONTENTS = [[Numbered("k", number, number) for number in range(6)], []]
GROUP = f"""
own a manual 0 1
got a 0 0 2 {digest_of(CONTENTS[0][:3])}
commit a 0:3 1:0
committed a 0:3 1:0
got a 0 3 3 {digest_of(CONTENTS[0][3:4])}
free a 1
own b auto 1
kill a
own b auto 0
got b 0 3 5 {digest_of(CONTENTS[0][3:])}
free b 0
own c manual 0
"""


def judged_group(old: str = "", new: str = "") -> GroupTally:
    return judge_group(CONTENTS, edited(GROUP, old, new))


def test_a_group_that_does_what_it_may_passes() -> None:
    tally = judged_group()
    assert tally.problems == []
    assert (tally.delivered, tally.again, tally.assigned, tally.moved) == (7, 1, 5, 1)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("kill a\n", "", "b got partition 0, which a had"),
        ("own b auto 0\n", "own b auto 0\ngot a 0 4 4 0\n", "a was handed messages of partition 0, which b had"),
        ("own b auto 0\n", "own b auto 0\ncommit a 0:4\n", "a committed for partition 0, which b had"),
        ("got b 0 3 5", "got b 0 4 5", "b began partition 0 at 4; what was committed is in 3..3"),
        ("got b 0 3 5", "got b 0 2 5", "b began partition 0 at 2; what was committed is in 3..3"),
        ("got a 0 3 3", "got a 0 4 4", "a was handed 0:4 where 3 was next"),
        ("got a 0 3 3", "got a 0 2 2", "a was handed 0:2 where 3 was next"),
        ("commit a 0:3", "commit a 0:2", "a committed 0:2, which is not in 3..3"),
        ("commit a 0:3", "commit a 0:4", "a committed 0:4, which is not in 3..3"),
        ("got a 0 0 2 ", "got a 0 0 2 1", "there is something else"),
        ("got b 0 3 5", "got b 0 3 4", "of partition 0 1 records were never delivered"),
        (
            "own c manual 0\n",
            "own c manual 0\ngot c 0 0 0 0\n",
            "c began partition 0 at 0; what was committed is in 3..6",
        ),
    ],
)
def test_what_a_group_must_not_do_is_found(old: str, new: str, said: str) -> None:
    assert said in "\n".join(judged_group(old, new).problems)


# ---------------------------------------------------------------- a work queue

STATS = QueueStats(available=0, delayed=0, acquired=0, acknowledged=5, dead=2, size=0, oldest_age=None)
LETTERS = [Letter(0, 4, "rejected"), Letter(0, 3, "delivered 8 times")]
QUEUE = """
putting p 0 0 - j0 j1 j2
put p j0 0 0
put p j1 0 1
put p j2 0 2
putting p 0 500 u1 late
put p late 0 3
putting p 0 0 u2 bad
put p bad 0 4
putting p 1 0 - high
put p high 1 0
asking w
got w 100 1:0:1:high 0:0:1:j0
acking w 1:0 0:0
acked w 1:0 0:0
asking w
got w 100 0:1:1:j1 0:2:1:j2
nacking w 0:1
asking x
got x 600 0:1:2:j1 0:4:1:bad 0:3:1:late
acking x 0:1
rejecting x 0:4
rejected x 0:4
putting p 0 0 u2 next
put p next 0 5
putting p 0 0 u2 more
known p more 0 5
kill w
asking x
got x 700 0:2:2:j2 0:5:1:next
acking x 0:2
acked x 0:2
acking x 0:5
acked x 0:5
kill x
"""
NEXT, J2_IS_ACKED = "0:5:1:next\n", "acking x 0:2\nacked x 0:2\n"


def judged_queue(
    old: str = "", new: str = "", letters: list[Letter] = LETTERS, stats: QueueStats = STATS
) -> QueueTally:
    return judge_queue(edited(QUEUE, old, new), letters, stats)


def test_a_queue_that_does_what_it_may_passes() -> None:
    tally = judged_queue()
    assert tally.problems == []
    assert (tally.put, tally.delivered, tally.again, tally.acknowledged, tally.dead) == (7, 9, 2, 4, 2)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("0:2:2:j2", "0:2:1:j2", "x got j2 as delivery 1, after delivery 1"),
        ("kill w\n", "", "x got j2, which w had"),
        ("nacking w 0:1\n", "", "x got j1, which w had"),
        ("got x 700", "got x 700 0:0:2:j0", "x got j0, which was finished"),
        ("got x 600", "got x 400", "x got late 100 ms too early"),
        ("kill x", "acking w 0:2\nkill x", "w has j2, which x got"),
        (f"got x 700 0:2:2:j2 {NEXT}{J2_IS_ACKED}", f"got x 700 {NEXT}", "j2 at (0, 2) was put, and never finished"),
        ("acking x 0:1\n", "", "j1 at (0, 1) was put, and never finished"),
        ("known p more 0 5", "known p more 0 1", "said to be j1, which has another unique key"),
        ("known p more 0 5", "known p more 0 4", "said to be bad, which was finished before"),
        ("0:5:1:next", "0:5:1:nobody", "nobody at (0, 5) was put by nobody"),
        ("0:5:1:next", "0:6:1:next", "next is there twice, at (0, 5) and (0, 6)"),
        ("0:5:1:next", "0:5:1:j1", "j1 is at (0, 5), and so is next"),
        ("got w 100 1:0:1:high 0:0:1:j0", "got w 100 1:0:1:high 0:2:1:j2", "w got j1 behind 3 of its priority"),
    ],
)
def test_what_a_queue_must_not_do_is_found(old: str, new: str, said: str) -> None:
    assert said in "\n".join(judged_queue(old, new).problems)


def test_a_unique_key_with_two_jobs_is_found() -> None:
    tally = judged_queue("rejecting x 0:4\nrejected x 0:4\n", "", letters=LETTERS[1:])
    assert "next has the unique key of bad, which is not finished" in tally.problems[0]


def test_a_job_of_a_lower_priority_that_comes_first_is_found() -> None:
    first = "asking v\ngot v 50 0:0:1:j0\nkill v\n"
    got = "asking w\ngot w 100 1:0:1:high 0:0:"
    tally = judged_queue(f"{got}1:j0\n", f"{first}{got}2:j0\n")
    assert "high was there, and a job of a lower priority was given away" in tally.problems[0]


def test_dead_letters_and_counts_that_cannot_be_are_found() -> None:
    assert "bad at (0, 4) was rejected, and is no dead letter" in judged_queue(letters=LETTERS[1:]).problems[0]
    letters = [*LETTERS, Letter(0, 0, "rejected"), Letter(0, 5, "delivered 8 times"), Letter(0, 1, "delivered 5 times")]
    assert [one.split()[0] for one in judged_queue(letters=letters).problems] == ["j0", "next", "j1"]
    for stats in ({"acknowledged": 3}, {"acknowledged": 6}, {"available": 1}):
        assert "the queue says" in judged_queue(stats=dataclasses.replace(STATS, **stats)).problems[0]
