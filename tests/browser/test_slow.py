"""What a slow machine does to a page: scripts, answers and clicks that come late or in the wrong order."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import APIResponse, Browser, Page, Route, expect

from tests.browser.conftest import Contexts, context_of
from tests.fakes_studio import FakeStudio
from tests.site import Site, serving

pytestmark = pytest.mark.browser
LATE_MS = 1000
"""Long enough for the page to do the wrong thing meanwhile."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    studio = FakeStudio(tmp_path_factory.mktemp("slow") / "studio")
    for number in range(26):
        studio.add_clip("a red ball bounces", age=number * 4000.0)
    with serving(studio) as running:
        yield running


@pytest.fixture
def page(site: Site, chromium: Browser, contexts: Contexts) -> Iterator[Page]:
    """A page over the same 26 clips for each test, without jobs."""
    clips, site.studio.speed = dict(site.studio._clips), 0.05
    page = context_of(chromium, contexts).new_page()
    page.set_default_timeout(60_000)
    yield page
    page.evaluate("localStorage.clear()")
    page.close()
    with site.studio._lock:
        site.studio._jobs.clear()
        site.studio._clips = clips


class Held:
    """The first event of the page that matches. Its answer is handed over on `release`; the server computes it at once, or
    only then (`unsent`)."""

    def __init__(self, page: Page, wanted: Callable[[str], bool], *, unsent: bool = False) -> None:
        self.wanted, self.page, self.unsent = wanted, page, unsent
        self.answers: list[tuple[Route, APIResponse | None]] = []
        self.open = False
        page.route("**/gradio_api/run/predict*", self._on_route)

    def _on_route(self, route: Route) -> None:
        if self.open or self.answers or not self.wanted(route.request.post_data or ""):
            route.continue_()
            return
        self.answers.append((route, None if self.unsent else route.fetch()))

    def wait(self) -> None:
        while not self.answers:
            self.page.wait_for_timeout(50)

    def release(self) -> None:
        self.open = True
        for route, answer in self.answers:
            if answer is None:
                route.continue_()
            else:
                route.fulfill(response=answer)
        self.page.wait_for_timeout(LATE_MS)


def test_clicks_count_where_the_script_comes_last(site: Site, page: Page) -> None:
    late: list[Route] = []

    def hold(route: Route) -> None:
        late.append(route)

    page.route("**/studio.js*", hold)
    page.goto(site.url + "/?view=gallery")
    expect(page.locator(".card")).to_have_count(24)
    page.wait_for_timeout(LATE_MS)
    for route in late:
        route.continue_()
    page.wait_for_timeout(LATE_MS)
    page.get_by_role("link", name="Older →").click()
    expect(page.locator(".card")).to_have_count(2)


def test_the_answer_to_the_opening_does_not_undo_a_click(site: Site, page: Page) -> None:
    site.studio.submit({"prompt": "made meanwhile"})
    opening = Held(page, lambda body: True, unsent=True)
    page.goto(site.url)
    page.get_by_role("link", name="Gallery", exact=True).click()
    opening.wait()
    page.wait_for_timeout(LATE_MS)
    opening.release()
    expect(page.locator(".card")).to_have_count(24)
    expect(page.locator("#view-gallery")).to_contain_text("26 clips")
    site.studio.speed = 1000.0
    expect(page.locator("#view-gallery")).to_contain_text("27 clips")  # the page knows where it is


def test_a_generate_before_the_page_has_opened_is_kept(site: Site, page: Page) -> None:
    last = site.studio.submit({"prompt": "a job of before"})
    opening = Held(page, lambda body: True)
    page.goto(site.url)
    page.fill("#field-prompt textarea", "typed early")
    page.locator("#generate").dblclick()
    opening.wait()
    page.wait_for_timeout(LATE_MS)
    opening.release()
    page.wait_for_selector(f"#stage .stage[data-job]:not([data-job='']):not([data-job='{last.id}'])")
    assert [job.request["prompt"] for job in site.studio.jobs(owner="local")].count("typed early") == 1
    expect(page.locator("#field-prompt textarea")).to_have_value("typed early")


def test_a_late_poll_does_not_undo_a_click(site: Site, page: Page) -> None:
    job = site.studio.submit({"prompt": "runs for long"})
    page.goto(site.url + "/?view=gallery")
    expect(page.locator(".nav .count")).to_have_text("1")
    expect(page.locator(".card")).to_have_count(24)
    poll = Held(page, lambda body: '"act"' not in body)
    site.studio.cancel(job.id, owner="local")  # the next poll redraws the bar and the gallery
    poll.wait()
    page.get_by_role("link", name="Older →").click()
    page.wait_for_timeout(LATE_MS)
    poll.release()
    expect(page.locator(".card")).to_have_count(2)


def test_a_menu_stays_open_while_the_bar_is_redrawn(site: Site, page: Page) -> None:
    job = site.studio.submit({"prompt": "runs for long"})
    page.goto(site.url + "/?view=queue")
    expect(page.locator(".nav .count")).to_have_text("1")
    page.locator(".menu summary").click()
    page.get_by_label("Name of a new project").fill("Half typed")
    site.studio.cancel(job.id, owner="local")
    expect(page.locator(".nav .count")).to_have_count(0)
    expect(page.get_by_label("Name of a new project")).to_be_visible()
    expect(page.get_by_label("Name of a new project")).to_have_value("Half typed")


def test_a_refused_click_says_why_and_does_not_hold_up_the_next(site: Site, page: Page) -> None:
    page.goto(site.url + "/?view=queue")
    expect(page.locator("#view-queue")).to_contain_text("Nothing in the queue")
    page.evaluate("""() => {
        const old = Object.assign(document.createElement("button"), { textContent: "of a job that is gone" });
        Object.assign(old.dataset, { act: "cancel", job: "gone" });
        document.querySelector("#view-queue h1").append(old);
        old.click();
    }""")
    expect(page.get_by_role("alert")).to_contain_text("job_id: 'gone' is not one of your jobs.")
    page.get_by_role("link", name="Gallery", exact=True).click()
    expect(page.locator(".card")).to_have_count(24, timeout=20_000)
    expect(page.locator("#refusal")).to_be_hidden()
