"""A process that is told to end notices, whatever it was at."""

from __future__ import annotations

import signal
import threading

import pytest

from engine.lifeline import set_in_handler


@pytest.mark.timeout(20)
def test_a_signal_that_comes_within_a_wait_sets_its_event() -> None:
    event = threading.Event()
    before = signal.signal(signal.SIGUSR1, lambda *_: set_in_handler(event))
    try:
        with event._cond:  # type: ignore[attr-defined]  # as in the midst of `wait`
            signal.raise_signal(signal.SIGUSR1)
        assert event.wait(10)
    finally:
        signal.signal(signal.SIGUSR1, before)
