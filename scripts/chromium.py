"""Finds a Chromium for the browser tests, or installs one: the system's package where we are root on Debian, else
Playwright's own. Prints the path it found."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def system_chromium() -> str | None:
    """The first browser of a known name on PATH."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


def playwright_chromium() -> str | None:
    """Playwright's own browser, if it has been downloaded."""
    from playwright.sync_api import sync_playwright
    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if Path(path).exists() else None


def install() -> None:
    """Installs a browser by the way open to this user."""
    if hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(["apt-get", "update", "-qq"], check=False)
        done = subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium"],
                              check=False, stdout=subprocess.DEVNULL, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
        if done.returncode == 0:
            return
    subprocess.run([sys.executable, "-m", "playwright", "install", "chromium"], check=False)


def main() -> None:
    """Prints the browser's path; exits 1 with the way out when there is none."""
    found = system_chromium() or playwright_chromium()
    if not found:
        install()
        found = system_chromium() or playwright_chromium()
    if not found:
        sys.exit("No Chromium for the browser tests: install your system's 'chromium' package, then run this again.")
    print(f"Browser tests use {found}")


if __name__ == "__main__":
    main()
