"""The legal life of a job: one table, one function, no input or output.

    queued --claim--> running --finalize--> finalizing --finish--> done
      ^                 |  |                    |
      |  release, reap  |  +--ask_cancel--> cancelling --> cancelled
      +-----------------+
      +--unblock-- blocked <--block-- running, finalizing
      +--resume--- paused  <--pause-- queued, blocked
      |                    <--hold--- running (its owner is to look at something first)
      +--retry---- failed, cancelled
"""

from __future__ import annotations

from enum import Enum

from app.errors import NotAllowed
from app.history.records import JobState

Q, R, F, D = JobState.QUEUED, JobState.RUNNING, JobState.FINALIZING, JobState.DONE
X, C, K, B, P = JobState.FAILED, JobState.CANCELLING, JobState.CANCELLED, JobState.BLOCKED, JobState.PAUSED


class Action(str, Enum):
    """What may happen to a job. The first group is done by a worker that holds the lease, the second by recovery,
    the third by the owner."""

    CLAIM = "claim"
    FINALIZE = "finalize"
    FINISH = "finish"
    FAIL = "fail"
    BLOCK = "block"
    RELEASE = "release"
    CONFIRM_CANCEL = "confirm_cancel"
    HOLD = "hold"

    REAP = "reap"
    UNBLOCK = "unblock"
    ADOPT = "adopt"

    ASK_CANCEL = "ask_cancel"
    PAUSE = "pause"
    RESUME = "resume"
    RETRY = "retry"


TABLE: dict[Action, dict[JobState, JobState]] = {
    Action.CLAIM: {Q: R},
    Action.FINALIZE: {R: F},
    Action.FINISH: {F: D},
    Action.FAIL: {R: X, F: X, C: K},
    Action.BLOCK: {R: B, F: B, C: K},
    Action.RELEASE: {R: Q, F: Q, C: K},
    Action.CONFIRM_CANCEL: {C: K},
    Action.HOLD: {R: P, C: K},
    Action.REAP: {R: Q, F: Q, C: K},
    Action.UNBLOCK: {B: Q},
    Action.ADOPT: {Q: D, R: D, F: D, X: D, B: D, P: D},
    Action.ASK_CANCEL: {Q: K, B: K, P: K, R: C, C: C, K: K},
    Action.PAUSE: {Q: P, B: P},
    Action.RESUME: {P: Q},
    Action.RETRY: {X: Q, K: Q},
}
"""action -> {state before: state after}. What is not here is illegal. A job that is being cancelled ends as cancelled
whatever else its worker reports."""

_WHY_NOT = {
    D: "it is done; its clip is in the gallery. Duplicate it to run it again",
    X: "it has failed. Retry or duplicate it",
    K: "it was cancelled. Retry or duplicate it",
    Q: "it is still waiting",
    R: "it is running. Cancel it first",
    F: "its clip is being saved and appears in a moment",
    C: "it is being cancelled",
    B: "it waits for disk space",
    P: "it is paused. Resume it first",
}


def next_state(state: JobState, action: Action) -> JobState:
    """The state after `action`. Raises `NotAllowed` where the table has no entry."""
    after = TABLE[action].get(state)
    if after is None:
        raise NotAllowed(f"This job cannot {action.value.replace('_', ' ')} now: {_WHY_NOT[state]}.")
    return after
