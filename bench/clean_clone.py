"""A newcomer's first five minutes: `git clone`, `make demo`, a video. Also the size of what is shipped.

    python -m bench.clean_clone
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 300.0
ASSETS_LIMIT = 40 * 2**20
FILE_LIMIT = 16 * 2**20


def main() -> None:
    """Prints seconds from clone to video, and the sizes of the committed assets."""
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "sprocket"
        started = time.perf_counter()
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        environment = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
        environment["SPROCKET_DATA_DIR"] = str(Path(folder) / "data")
        done = subprocess.run(["make", "demo"], cwd=clone, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        seconds = time.perf_counter() - started
        video = Path(done.stdout.strip().splitlines()[-1])
        sizes = [path.stat().st_size for path in (clone / "assets" / "pocket").rglob("*") if path.is_file()]
        print(f"clone to first video: {seconds:.0f} s (target <= {LIMIT:.0f} with a warm package cache); "
              f"{video.name}, {video.stat().st_size / 1e3:.0f} kB")
    print(f"pocket assets: {sum(sizes) / 2**20:.1f} MiB together (target <= {ASSETS_LIMIT / 2**20:.0f}), "
          f"largest file {max(sizes) / 2**20:.1f} MiB (target < {FILE_LIMIT / 2**20:.0f})")


if __name__ == "__main__":
    main()
