"""torch's elastic launcher around the ranks of one fleet: it gives them their numbers and a rendezvous, and ends all when one ends.

    python -m engine.parallel.launch RANKS FOLDER PARENT       FOLDER: its own, for logs and the rendezvous

They meet in files, which nobody else can open: torch's store on a port listens on every address, asks nobody for a secret, and what
the launcher reads from it can make it run anything.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from engine.lifeline import die_with_parent
from engine.parallel.wire import AGENT, STORE


def main(arguments: list[str]) -> None:
    ranks, folder, parent = arguments
    die_with_parent(int(parent))
    os.environ[AGENT] = str(os.getpid())
    meet_in_files(Path(folder))
    from torch.distributed.run import main as elastic  # a second of imports, after the lifeline

    elastic([*rendezvous(ranks, Path(folder)), f"--log-dir={folder}", "--redirects=3", "--monitor-interval=0.2",
             "-m", "engine.parallel.rank"])


def rendezvous(ranks: str, folder: Path) -> list[str]:
    """Options of the elastic launcher."""
    return ["--nnodes=1", f"--nproc-per-node={ranks}", "--max-restarts=0", "--rdzv-backend=c10d", "--rdzv-conf=store_type=file",
            f"--rdzv-endpoint={folder / 'rendezvous'}", "--rdzv-id=sprocket", "--local-addr=127.0.0.1"]


def meet_in_files(folder: Path) -> None:
    """Tells torch in this process, and its ranks, that nothing is to listen for other computers."""
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    os.environ[STORE] = str(folder / "store")
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")


if __name__ == "__main__":
    main(sys.argv[1:])
