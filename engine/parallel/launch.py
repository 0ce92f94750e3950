"""torch's elastic launcher around the ranks of one fleet: it gives them their numbers and a rendezvous, and ends all when one ends.

    python -m engine.parallel.launch RANKS LOGS PARENT PORT       PORT 0: a free one
"""

from __future__ import annotations

import os
import sys

from engine.lifeline import die_with_parent
from engine.parallel.wire import AGENT


def main(arguments: list[str]) -> None:
    ranks, logs, parent, port = arguments
    die_with_parent(int(parent))
    os.environ[AGENT] = str(os.getpid())
    from torch.distributed.run import main as elastic  # a second of imports, after the lifeline

    elastic(["--nnodes=1", f"--nproc-per-node={ranks}", "--max-restarts=0", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}",
             "--rdzv-id=sprocket", f"--log-dir={logs}", "--redirects=3", "--monitor-interval=0.2", "-m", "engine.parallel.rank"])


if __name__ == "__main__":
    main(sys.argv[1:])
