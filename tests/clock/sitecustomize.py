"""Put first on PYTHONPATH, every Python process reads the wall clock with the seconds in the file CHAOS_CLOCK added."""

import os
import time

_real, _path = time.time, os.environ.get("CHAOS_CLOCK", "")


def _jumped() -> float:
    try:
        with open(_path) as file:  # noqa: PTH123  (pathlib is not needed in every process)
            return _real() + float(file.read() or 0)
    except (OSError, ValueError):
        return _real()


if _path:
    time.time = _jumped
