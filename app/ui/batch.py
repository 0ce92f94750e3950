"""Several videos from one press of Generate: other seeds, other words, or both.

    requests_of(request, 3, per_line=False)   three seeds
    requests_of(request, 1, per_line=True)    one video a line of the prompt
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from app.history.records import Job
from app.ui.parts import OWNER
from engine.errors import InvalidRequest
from engine.request import MAX_SEED, GenerationRequest

MOST_SEEDS = 8
MOST = 32
"""Videos of one batch."""


def requests_of(request: GenerationRequest, how_many: object = 1, per_line: object = False) -> tuple[GenerationRequest, ...]:
    """What one press asks for, in the order it will run. A seed that was given counts up; else each draws its own.

    `how_many`: of each prompt, 1 to `MOST_SEEDS`. `per_line`: every line of the prompt that is not empty is one. Raises InvalidRequest.
    """
    if isinstance(how_many, bool) or not isinstance(how_many, (int, float)) or how_many not in range(1, MOST_SEEDS + 1):
        raise InvalidRequest("how_many", f"is {str(how_many)[:20]}; allowed is 1 to {MOST_SEEDS}.", suggestion=1)
    lines = [line for line in request.prompt.splitlines() if line.strip()] if per_line is True else [request.prompt]
    count = len(lines) * int(how_many)
    if count > MOST:
        raise InvalidRequest("prompt", f"has {len(lines)} lines, which with {int(how_many)} of each makes {count} videos; at most "
                                       f"{MOST} are asked for at once. Take lines away, or ask for fewer of each.")
    seeds = _seeds(request.seed, int(how_many))
    return tuple(replace(request, prompt=line, seed=seed) for line in lines for seed in seeds)


def _seeds(first: int | None, count: int) -> list[int | None]:
    if first is None:
        return [None] * count
    if first + count - 1 > MAX_SEED:
        raise InvalidRequest("seed", f"is {first}; {count} seeds from there on pass 2^63 - 1. Use a smaller one.",
                             suggestion=MAX_SEED - count + 1)
    return [first + number for number in range(count)]


def submit_all(studio: Any, requests: Sequence[GenerationRequest], *, project_id: str | None, ticket: str | None,
               made_from: str | None) -> tuple[Job, ...]:
    """All of them, or none. Raises as `Studio.submit` and `Studio.submit_batch`.

    The same `ticket` gives the same jobs again, so a press that was sent twice asks once.
    """
    common = {"owner": OWNER, "project_id": project_id, "made_from": made_from, "idempotency_key": ticket or None}
    if len(requests) == 1:
        return (studio.submit(requests[0], **common),)
    return studio.submit_batch(requests, **common)
