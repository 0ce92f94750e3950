"""Makes the pictures of README.md: starts the studio on an empty folder, makes clips with the embedded model, takes pictures.

    python -m bench.screenshots [--out docs/images] [--keep FOLDER]

`--keep` uses (and keeps) a data folder, so that a second run need not make the clips again.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from app.history.records import ClipQuery
from app.queue.supervisor import Supervisor
from app.settings import Settings
from app.studio import Studio, open_studio
from app.ui.server import build_app

ROOT = Path(__file__).resolve().parents[1]
MAX_BYTES = 300_000
DESK, PHONE = (1440, 900), (390, 844)
PROMPTS = (
    "a green square falls in the snow",
    "an orange triangle moves from left to right in the desert",
    "a purple ring spins quickly over the sea",
    "a blue heart grows in a plain studio",
    "a yellow star rises slowly in the night sky",
    "a pink heart floats up over the ocean",
    "a cyan ball rolls from right to left over the grass",
    "a red star shrinks at night",
    "a red ball moves from left to right over a green meadow",
)
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images")
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        folder = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        settings = Settings(data_dir=folder.absolute(), preview_seconds=0.2)
        supervisor = Supervisor(settings)
        supervisor.start()
        stack.callback(supervisor.close)
        studio = open_studio(settings)
        stack.callback(studio.close)
        url = serve(studio, stack)
        make_clips(studio)
        playwright = stack.enter_context(sync_playwright())
        path = next((found for found in map(shutil.which, BROWSERS) if found), None)
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        take_pictures(browser, url, studio, options.out)
        browser.close()


def serve(studio: Studio, stack: contextlib.ExitStack) -> str:
    """The pages on a free port, until `stack` unwinds."""
    bound = stack.enter_context(socket.socket())
    bound.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(build_app(studio), log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()

    def stop() -> None:
        server.should_exit = True
        thread.join(10)

    stack.callback(stop)
    wait(lambda: server.started, 60)
    return f"http://127.0.0.1:{bound.getsockname()[1]}"


def make_clips(studio: Studio) -> None:
    """One clip a prompt, unless the folder has them already; every fourth a favourite."""
    have = {clip.prompt for clip in studio.clips(ClipQuery()).clips}
    for number, prompt in enumerate(PROMPTS):
        if prompt in have:
            continue
        job = studio.submit({"prompt": prompt, "seed": 100 + number})
        print(f"making: {prompt}", flush=True)
        wait(lambda job_id=job.id: studio.job(job_id).state.ended, 600)
        done = studio.job(job.id)
        if done.clip_id and number % 4 == 2:
            studio.set_favourite(done.clip_id, True)


def take_pictures(browser: Browser, url: str, studio: Studio, out: Path) -> None:
    """All pictures, named after the page, the device and the light."""
    newest = studio.clips(ClipQuery()).clips[0]
    page = open_page(browser, url, "/?view=create", DESK, "dark")
    page.fill("#field-prompt textarea", PROMPTS[-1])
    page.fill("#field-seed input, #field-seed textarea", "7")
    page.locator("#field-steps input[type=number]").fill("60")  # long enough to be seen between two looks of the page
    page.keyboard.press("Control+Enter")
    page.wait_for_function(
        "() => { const s = document.querySelector('#stage .caption-line'); return s && /step ([6-9]|[1-5][0-9]) of/.test(s.textContent) }",
        timeout=600_000,
    )
    save(page, out / "create-running.png")
    page.wait_for_selector("#stage video.result", timeout=600_000)
    page.context.close()
    for name, path, size, light in (
        ("create-done.png", f"/?view=create&job={newest.job_id}", DESK, "dark"),
        ("gallery.png", "/?view=gallery", DESK, "light"),
        ("gallery-dark.png", "/?view=gallery", DESK, "dark"),
        ("clip.png", f"/?view=gallery&clip={newest.id}", DESK, "light"),
        ("create-phone.png", f"/?view=create&job={newest.job_id}", PHONE, "light"),
        ("gallery-phone.png", "/?view=gallery", PHONE, "dark"),
    ):
        page = open_page(browser, url, path, size, light)
        save(page, out / name)
        page.context.close()
    start_pictures(browser, url, studio, out, newest.id)
    queue_picture(browser, url, studio, out)


def start_pictures(browser: Browser, url: str, studio: Studio, out: Path, clip: str) -> None:
    """A video to change; where a model here takes an image, also the way on from a frame of a clip."""
    for name, size, light in (("create-video.png", DESK, "light"), ("create-video-phone.png", PHONE, "dark")):
        page = open_page(browser, url, "/?view=create", size, light)
        page.fill("#field-prompt textarea", "a blue ball bounces over a green meadow")
        page.locator("#source [data-mode=v2v]").click()
        with page.expect_file_chooser() as chooser:
            page.get_by_role("button", name="Drop a video here").click()
        chooser.value.set_files(studio.clip_path(clip))
        fitted(page)
        save(page, out / name)
        page.context.close()
    if any("i2v" in spec.modes for spec in studio.models()):
        page = open_page(browser, url, f"/?view=gallery&clip={clip}", DESK, "dark")
        page.get_by_text("Extend…").click()
        page.get_by_role("button", name="Extend from this frame").click()
        fitted(page)
        save(page, out / "create-image.png")
        page.context.close()


def fitted(page: Page) -> None:
    """Waits until the picture of what is started from is there."""
    page.wait_for_function("() => { const i = document.querySelector('#source .fitted img'); return i && i.complete && i.naturalWidth }")
    page.wait_for_timeout(800)


def queue_picture(browser: Browser, url: str, studio: Studio, out: Path) -> None:
    """A queue with something in it; what was queued for the picture is cancelled after it."""
    jobs = [studio.submit({"prompt": prompt, "steps": 100}) for prompt in PROMPTS[:4]]
    page = open_page(browser, url, "/?view=queue", DESK, "light")
    wait(lambda: studio.job(jobs[0].id).step > 2, 600)
    page.wait_for_timeout(1500)
    save(page, out / "queue.png")
    page.context.close()
    for job in jobs:
        studio.cancel(job.id)
    wait(lambda: all(studio.job(job.id).state.ended for job in jobs), 60)


def open_page(browser: Browser, url: str, path: str, size: tuple[int, int], light: Any) -> Page:
    """A fresh visitor."""
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]}, color_scheme=light, is_mobile=size == PHONE, has_touch=size == PHONE
    )
    page = context.new_page()
    page.goto(url + path)
    page.wait_for_selector("#forecast b", state="attached")
    page.wait_for_timeout(1500)
    return page


def save(page: Page, path: Path) -> None:
    """A PNG of the window, in fewer colours where it would be large. Raises AssertionError when that is not enough."""
    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    for colours in (None, 256, 128, 64):
        # `kmeans` moves the palette to where the colours are: without it a rare one became another near it, a yellow star orange.
        shown = image if colours is None else image.quantize(colours, kmeans=1)
        shown.save(path, optimize=True)
        if path.stat().st_size < MAX_BYTES:
            break
    assert path.stat().st_size < MAX_BYTES, f"{path} is too large"
    print(f"{path}  {path.stat().st_size / 1000:.0f} KB", flush=True)


def wait(check: Callable[[], Any], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not check():
        if time.monotonic() > end:
            raise SystemExit("The studio did not get on with its work; see its log.")
        time.sleep(0.1)


if __name__ == "__main__":
    main()
