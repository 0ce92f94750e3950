"""Several requests as one: all are good, or none is taken. Pure but for what it is given."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from app.history.records import NewJob
from engine.errors import CannotFit, InvalidRequest
from engine.plan import Plan
from engine.request import GenerationRequest


def wishes(requests: Sequence[GenerationRequest | Mapping[str, Any]], most: int) -> tuple[GenerationRequest, ...]:
    """A batch of 1 to `most`, read. Raises InvalidRequest, saying of which request."""
    if not isinstance(requests, (list, tuple)) or not 1 <= len(requests) <= most:
        many = f"{len(requests)} of them" if isinstance(requests, (list, tuple)) else type(requests).__name__
        raise InvalidRequest("requests", f"must be a list of 1 to {most} requests, not {many}. Send several batches.")
    read = []
    for number, request in enumerate(requests, start=1):
        with _numbered(number, len(requests)):
            read.append(request if isinstance(request, GenerationRequest) else GenerationRequest.from_mapping(request))
    return tuple(read)


def new_jobs(wishes: Sequence[GenerationRequest], planned: Callable[[GenerationRequest], Plan],
             drawn: Callable[[], int]) -> tuple[NewJob, ...]:
    """The jobs of a batch, every seed drawn. Raises what `planned` raises, saying of which request."""
    made = []
    for number, wish in enumerate(wishes, start=1):
        with _numbered(number, len(wishes)):
            plan = planned(wish)
        seeded = dataclasses.replace(wish, seed=drawn() if wish.seed is None else wish.seed)
        made.append(NewJob(seeded.to_json(), wish.to_json(), plan.sampled_steps, plan.notes))
    return tuple(made)


@contextlib.contextmanager
def _numbered(number: int, of: int) -> Iterator[None]:
    """Refusals say which request they are about."""
    where = f"(In request {number} of {of}; none was taken.)"
    try:
        yield
    except InvalidRequest as error:
        raise InvalidRequest(error.field, f"{error.message} {where}", suggestion=error.suggestion) from error
    except CannotFit as error:
        raise CannotFit(f"{error} {where}") from error


def variants(prompts: Sequence[str], seed: int | None, seeds: str | None, count: int | None, most: int) -> list[tuple[str, int | None]]:
    """(prompt, seed) of every clip that a command line asks for: every prompt with every seed.

    `seeds`: '1,2,3'. `count`: so many seeds, counted up from `seed` or each drawn. Raises `InvalidRequest`.
    """
    if seeds is not None and (seed is not None or count is not None):
        raise InvalidRequest("seeds", "names every seed, and --seed or --count is given too. Use one of them.")
    chosen: list[int | None] = [seed]
    if seeds is not None:
        chosen = [_seed(word, seeds) for word in seeds.split(",")]
        if len(set(chosen)) < len(chosen):
            raise InvalidRequest("seeds", f"names a seed twice in {seeds[:60]!r}; the clips would be equal. Name each once.")
    elif count is not None:
        if not 1 <= count <= most:
            raise InvalidRequest("count", f"is {count}; allowed is 1 to {most}.", suggestion=min(max(count, 1), most))
        chosen = [None if seed is None else seed + number for number in range(count)]
    if len(prompts) * len(chosen) > most:
        raise InvalidRequest("prompt", f"and seeds make {len(prompts) * len(chosen)} clips; one batch has at most {most}. Ask for fewer.")
    return [(prompt, each) for prompt in prompts for each in chosen]


def _seed(word: str, every: str) -> int:
    digits = word.strip()
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 19):
        raise InvalidRequest("seeds", f"holds {word.strip()[:40]!r} in {every[:60]!r}; they are whole numbers with commas between, for "
                                      "example 1,2,3.")
    return int(digits)
