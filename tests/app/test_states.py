"""The whole table of legal transitions, and that nothing which walks it can get a job out of its life."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import NotAllowed
from app.history.records import JobState
from app.queue.states import TABLE, Action, next_state

LEGAL = """
queued      claim>running ask_cancel>cancelled pause>paused adopt>done
running     finalize>finalizing fail>failed block>blocked hold>paused release>queued reap>queued ask_cancel>cancelling adopt>done
finalizing  finish>done fail>failed block>blocked release>queued reap>queued adopt>done
done
failed      retry>queued adopt>done
cancelling  fail>cancelled block>cancelled hold>cancelled release>cancelled confirm_cancel>cancelled reap>cancelled ask_cancel>cancelling
cancelled   retry>queued ask_cancel>cancelled
blocked     unblock>queued ask_cancel>cancelled pause>paused adopt>done
paused      resume>queued ask_cancel>cancelled adopt>done
"""


def legal() -> dict[tuple[JobState, Action], JobState]:
    found = {}
    for line in LEGAL.strip().splitlines():
        state, *pairs = line.split()
        for pair in pairs:
            action, after = pair.split(">")
            found[JobState(state), Action(action)] = JobState(after)
    return found


@pytest.mark.parametrize(("state", "action"), list(itertools.product(JobState, Action)), ids=lambda value: value.value)
def test_every_state_and_action(state: JobState, action: Action) -> None:
    expected = legal().get((state, action))
    if expected is None:
        with pytest.raises(NotAllowed, match="This job cannot"):
            next_state(state, action)
    else:
        assert next_state(state, action) is expected


@given(st.lists(st.sampled_from(list(Action)), max_size=40))
def test_no_walk_revives_a_done_job_or_skips_a_stage(actions: list[Action]) -> None:
    state, seen = JobState.QUEUED, [JobState.QUEUED]
    for action in actions:
        try:
            state = next_state(state, action)
        except NotAllowed:
            continue
        seen.append(state)
    if JobState.DONE in seen:
        assert set(seen[seen.index(JobState.DONE):]) == {JobState.DONE}
    for before, after in itertools.pairwise(seen):
        assert after is not JobState.FINALIZING or before is JobState.RUNNING
        assert before is not JobState.CANCELLING or after in (JobState.CANCELLING, JobState.CANCELLED)


def test_every_state_can_be_left_or_is_done() -> None:
    reachable = {after for moves in TABLE.values() for after in moves.values()} | {JobState.QUEUED}
    leavable = {before for moves in TABLE.values() for before in moves}
    assert reachable == set(JobState)
    assert leavable == set(JobState) - {JobState.DONE}
