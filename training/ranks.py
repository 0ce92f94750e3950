"""torch's launcher around the processes of one run on a processor, which meet in files that nobody else can open.

    python -m training.ranks PROCESSES WHAT TORCHRUN RUNS...       such as: 2 -m training RUN
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from engine.parallel.launch import meet_in_files, rendezvous


def main(arguments: list[str]) -> None:
    processes, *work = arguments
    from torch.distributed.run import main as elastic

    with tempfile.TemporaryDirectory(prefix="sprocket-ranks-", ignore_cleanup_errors=True) as folder:
        meet_in_files(Path(folder))
        elastic([*rendezvous(processes, Path(folder)), *work])


if __name__ == "__main__":
    main(sys.argv[1:])
