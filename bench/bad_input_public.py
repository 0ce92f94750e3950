"""Groups 69 to 71 of `bench.bad_input`: the public gallery with its doors closed and open, and memory budgets.

Group 70 begins the server anew with `SPROCKET_OPEN_GALLERY=1`, which it then keeps.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from bench.bad_input import Group, Sending, Sent
from bench.bad_input_words import number, refused
from bench.bad_input_world import PATIENCE, Answer, World

HUSH = "zq9902 pear"
"""In what Anna keeps to herself of a clip she publishes: its name, and her words before a refinement."""
MARKUP = "<script>win=1</script><img src=x onerror=alert(1)>\"'>"
ALIVE = ("<script>win", "<img src=x", "onerror=alert(1)>")
NO_IDS = ("../../history.db", "..%2f..%2fhistory.db", "", "a" * 100_000, "A" * 32, "0" * 32, "%", "\u0660" * 32, "0" * 31 + "\n")
NEVER_IDS = (*NO_IDS, "a\0b", "\ud800", None, 7, True, [1], {"a": 1}, float("nan"))
FILES = ("/media/clips/{}.mp4", "/media/posters/{}.webp")
PATHS = ("/media/clips/..%2f..%2fusers.json.mp4", "/media/clips/%2e%2e%2f{}.mp4", "/media/posters/..%2fclips%2f{}.webp",
         "/media/clips/{}.mp4%00.webp", "/media/clips/{}.mp4/../../../users.json", "/public/..%2fconfig", "/public/{}/x", "/public/%00",
         "/public/" + "a" * 5000, "/public//{}", "/published/{}.mp4", "/media/published/{}.mp4", "/gradio_api/file=published/{}.mp4")
LENGTHS = ("bytes=0-", "bytes=-5", "bytes=" + ",".join(["1-1"] * 2000), "bytes=999999999-", "bytes=9-1", "bytes=a-b", "lines=1-2",
           "bytes=-0")


def made(world: World, prompt: str = "a red ball", who: str = "anna") -> str:
    """A clip that is not published; its name and its maker's words are nobody's business."""
    said = json.loads(world.call("submit_batch", [{"prompt": prompt, "wish": HUSH, "refiner": "pocket"}], who=who).words)
    clip = world.clip_of(said[0]["jobs"][0])
    world.act("rename", who=who, clip=clip, name=HUSH, search="?view=gallery")
    return clip


def shown(world: World, who: str, clip: str) -> list[int]:
    """What `who` is answered for the clip's video and poster."""
    answers = [world.http("GET", path.format(clip), who=who) for path in FILES]
    return [int(answer.words[5:8]) for answer in answers]


def first_of(answers: Iterator[tuple[str, Answer]] | list[tuple[str, Answer]], wanted: str, says: str = "") -> Answer:
    """All of `answers` must be `wanted` and say `says`; the first that is not is the answer, else how many there were."""
    count, last = 0, ""
    for what, answer in answers:
        if answer.kind != wanted or says not in answer.words.lower():
            return Answer("BROKEN", f"{what[:60]!a}: {answer.kind}, {answer.words[:200]}")
        count, last = count + 1, answer.words
    return Answer(wanted, f"{count}, the last: {last[:80]}")


def no_ids(name: str, who: str = "anna", says: str = "no such clip") -> Sending:
    """Ids that are none, and Ben's, to an endpoint."""
    def send(world: World) -> Answer:
        return first_of([(str(each), world.call(name, each, who=who)) for each in (*NEVER_IDS, world.ben_clip)], "refused", says)
    return send


def forged_clicks(world: World) -> Answer:
    """What only its owner, a maker or an admin may do, clicked by others, in one's own session and with any id."""
    clip = made(world)
    world.call("publish", clip)
    all_four = ("unpublish", "take_down", "publish", "remix_public")
    for who, acts in (("ben", (*all_four[:3], "forget")), ("vera", all_four), ("anna", all_four)):
        ids = (clip,) if who != "anna" else (world.ben_clip, *(each for each in NEVER_IDS if isinstance(each, str)))
        for act in acts:
            for each in ids:
                answer = world.act(act, who=who, clip=each, search="?view=gallery&public=1")
                if answer.kind != "taken" or (who == "vera" and act == "remix_public" and "needs the role maker" not in answer.words):
                    return Answer("BROKEN", f"{who} {act} {each[:40]!a}: {answer.words[:200]}")
    world.act("take_down", clip=clip)
    still, ben = shown(world, "ben", clip), shown(world, "anna", world.ben_clip)
    world.call("unpublish", clip)
    good = (still, ben) == ([200] * 2, [404] * 2)
    return Answer("refused", "the clip is as its owner wants it") if good else Answer("BROKEN", f"{still} {ben}")


def searches(world: World) -> Answer:
    """Words and pages that are none, through the API and the address."""
    odd: list[tuple[Any, Any]] = [({"a": 1}, 1), (["a"], 1), (7, 1), ("a" * 10_000, 1), ("a", 0), ("a", -1), ("a", 10**30), ("a", 1.5),
                                  ("a", True), ("a", "2"), ("a", [1]), ("a", float("nan")), ("a", float("inf"))]
    answer = first_of([(repr(each), world.call("public_clips", *each)) for each in odd], "refused")
    if answer.kind == "BROKEN":
        return answer
    words = ("zz\0q", "\ud800", "%_\\'\"", "'); DROP TABLE clips; --", "\u202e" * 100, "(" * 200, "* OR 1=1")
    answer = first_of([(each, world.call("public_clips", each)) for each in words], "taken", '"total": 0')
    if answer.kind == "BROKEN":
        return answer
    fields = [f"{name}={each}" for name in ("words", "model", "project", "clip", "sheet") for each in (*words, "a" * 3000, "9" * 30)]
    return first_of([(each, world.act("go", search=f"?view=gallery&public=1&{each}")) for each in fields], "taken", "public")


def taken_back(world: World, way: Callable[[World, str], Any]) -> Answer:
    """Published, watched by others, then taken back in one of the ways: nothing of it is there for them, nor a stale copy."""
    clip = made(world)
    world.call("publish", clip)
    before = [shown(world, who, clip) for who in ("ben", "vera")]
    way(world, clip)
    after = [shown(world, who, clip) for who in ("ben", "vera")]
    listed = clip in world.call("public_clips", who="ben").words
    page = world.act("go", who="ben", search=f"?view=gallery&public=1&clip={clip}").words
    copies = [path.name for path in (world.data / "published").glob("*") if clip in path.name]
    gone = after == [[404] * 2] * 2 and not listed and "No such clip" in page and not copies
    return Answer("refused", "404 for video, poster and page") if before == [[200] * 2] * 2 and gone else Answer(
        "BROKEN", f"{before}, then {after}, listed {listed}, {copies}: {page[:100]}")


def published_again(world: World, clip: str) -> None:
    """Trashed, published from the trash (refused), restored (still unpublished)."""
    world.act("trash", clip=clip, search="?view=gallery")
    world.call("publish", clip)
    world.act("untrash", clip=clip, search="?view=gallery&trash=1")


def at_once(world: World) -> Answer:
    """Published sixteen times at once, then watched sixteen times at once while the copy for others is not made yet: each is told the
    same, and the copy says no more than it should."""
    clip, copy = made(world), world.data / "published"
    address = f"{world.url}/media/clips/{clip}.mp4"
    with ThreadPoolExecutor(16) as many:
        told = {answer.words for answer in many.map(lambda _: world.call("publish", clip), range(16))}
        for _ in range(6):
            (copy / f"{clip}.mp4").unlink(missing_ok=True)
            seen = list(many.map(lambda _: httpx.get(address, headers=world.bearer("ben"), timeout=PATIENCE), range(16)))
            if {each.status_code for each in seen} != {200} or len({each.content for each in seen}) != 1:
                return Answer("BROKEN", f"{[each.status_code for each in seen]}, {len({each.content for each in seen})} different files")
            if any(HUSH.encode() in each.content for each in seen) or HUSH.encode() in (copy / f"{clip}.mp4").read_bytes():
                return Answer("BROKEN", "the copy for others holds its owner's words")
    left = [path.name for path in copy.iterdir() if path.name != f"{clip}.mp4"]
    world.call("unpublish", clip)
    return Answer("taken", "one answer, one file") if len(told) == 1 and not left else Answer("BROKEN", f"{told} {left}")


def lengths(world: World, said: str, who: str = "ben") -> Answer:
    """A range of what another has published."""
    clip = made(world)
    world.call("publish", clip)
    answer = world.http("GET", f"/media/clips/{clip}.mp4", who=who, headers={"range": said})
    world.call("unpublish", clip)
    return Answer(answer.kind, answer.words[:8])


def as_text(world: World, page: Callable[[World, str], str]) -> Answer:
    """A prompt with markup, published: shown as words, wherever others see it."""
    clip = made(world, MARKUP)
    world.call("publish", clip)
    said = page(world, clip)
    world.call("unpublish", clip)
    live = next((each for each in ALIVE if each in said), None)
    if live or HUSH in said or "&lt;script&gt;win" not in said:
        return Answer("BROKEN", f"alive: {live}, {HUSH in said}: {said[:200]}")
    return Answer("taken", "shown as words")


def in_tab(world: World, clip: str) -> str:
    return "".join(world.http("POST", "/gradio_api/run/predict", who="ben", json=world._click | {
        "session_hash": "tab-ben", "event_data": {"act": "go", "search": f"?view=gallery&public=1{more}"}}).words
        for more in ("", f"&clip={clip}"))


def in_page(world: World, clip: str) -> str:
    return "".join(world.http("GET", f"/public{more}", who="").words for more in ("", f"/{clip}", "?words=%3Cscript%3Ewin"))


def strangers(world: World) -> Answer:
    """Whoever has not signed in, where the gallery is for those who have: nothing, whatever the way."""
    clip = made(world)
    world.call("publish", clip)
    tried = [(f"{method} {path}", world.http(method, path.format(clip), who="", headers=headers))
             for method in ("GET", "POST") for path in ("/public", "/public/{}", *FILES, "/media/clips/{}.json")
             for headers in ({}, {"authorization": "Bearer x"}, {"x-forwarded-user": "ben"}, {"cookie": "sprocket_session=x"})]
    answer = first_of(tried, "refused", "sign in first")
    heads = {httpx.request(method, world.url + path.format(clip)).status_code for method in ("HEAD", "OPTIONS")
             for path in ("/public", *FILES)}
    person = httpx.get(f"{world.url}/public", headers={"accept": "text/html"})
    called = world.call("public_clips", who="").kind, world.call("publish", clip, who="").kind
    world.call("unpublish", clip)
    good = heads == {401} and person.headers.get("location", "").startswith("/signin") and called == ("refused", "refused")
    return answer if good or answer.kind == "BROKEN" else Answer("BROKEN", f"{heads} {person.headers} {called}")


def command(what: str, *said: str, wanted: str = "refused", says: str = "") -> Sent:
    return Sent(f"cli {what}", lambda world: world.cli("history", *said), wanted, says)


# ---- with the gallery open

def opened(world: World) -> Answer:
    world.restart(SPROCKET_OPEN_GALLERY="1")
    answer = world.http("GET", "/public", who="")
    return answer if "Public clips" in answer.words else Answer("BROKEN", answer.words[:200])


def open_paths(world: World) -> Answer:
    """Ways out of what is published, and everything of the studio that is not."""
    clip = made(world)
    hidden = [(path, world.http("GET", path.format(clip), who="")) for path in (*PATHS, *(each.format(world.ben_clip) for each in FILES),
                                                                             *(each.format(clip) for each in FILES), f"/public/{clip}")]
    world.call("publish", clip)
    shut = [(path, world.http("GET", path.format(clip), who="")) for path in (
        *PATHS, "/config", "/pulse", "/metrics", "/gradio_api/info", "/media/clips/{}.json",
        "/media/stills/{}.webp", "/media/inputs/x.webp", "/users.json")]
    sent = [(f"{method} {path}", world.http(method, path.format(clip), who="", content=b"x" * 1000))
            for method in ("POST", "PUT", "DELETE", "PATCH") for path in ("/public", "/public/{}", *FILES)]
    called = [(name, world.call(name, clip, who="")) for name in ("public_clips", "publish", "unpublish", "clips")]
    world.call("unpublish", clip)
    return first_of([*hidden, *shut, *sent, *called], "refused")


def heads(world: World) -> Answer:
    """HEAD is answered as GET is, without a body; nothing may be kept by a cache without asking again."""
    clip = made(world)
    world.call("publish", clip)
    wrong = []
    for path in ("/public", "/public/{}", *FILES):
        head, get = (httpx.request(method, world.url + path.format(clip)) for method in ("HEAD", "GET"))
        if head.status_code != 200 or head.content or get.status_code != 200:
            wrong.append(f"{path}: HEAD {head.status_code}, GET {get.status_code}")
        if not {"no-store", "no-cache"} & set(re.split(r"[,\s]+", get.headers.get("cache-control", ""))):
            wrong.append(f"{path}: cache-control {get.headers.get('cache-control')}")
        tag = get.headers.get("etag", "")
        world.call("unpublish", clip)
        again = httpx.get(world.url + path.format(clip), headers={"if-none-match": tag, "if-range": tag}).status_code
        if again not in (404, 200 * (path == "/public")):
            wrong.append(f"{path}: still there for who has its tag")
        world.call("publish", clip)
    world.call("unpublish", clip)
    return Answer("BROKEN", "; ".join(wrong)) if wrong else Answer("taken", "4 addresses; gone when unpublished")


def open_searches(world: World) -> Answer:
    """Whatever an address can say: a page, or a plain refusal."""
    odd = ("%00", "%ed%a0%80", "%ff", "a" * 5000, "%25_%5c%27", "%3Cscript%3Ewin", "%0d%0aSet-Cookie:x=1", "&words=b" * 500)
    return first_of([(each, world.http("GET", f"/public?{name}={each}", who="")) for name in ("words", "sheet", "view", "clip", "public")
                     for each in odd], "taken", "public clips")


def own_and_signed_in(world: World) -> Answer:
    """Whoever has signed in is sent to the tab, and nowhere else, whatever the address says."""
    there = [world._client.get(path, headers=world.bearer("ben")).headers.get("location", "") for path in (
        "/public", "/public?words=%0d%0aLocation:http://evil.example", "/public?sheet=http://evil.example", "/public/%5cevil.example")]
    good = all(each.startswith("/?view=gallery&") and each.endswith("public=1") and "//" not in each and "\n" not in each for each in there)
    return Answer("taken", there[1]) if good else Answer("BROKEN", str(there))


# ---- budgets

BUDGETS: tuple[tuple[Any, str], ...] = (
    ("8 GiB", "taken"), ("all", "taken"), ("", "taken"), ("  4  ", "taken"), ("-1", "refused"), ("NaN", "refused"), ("1e400", "refused"),
    ("9" * 10_000, "refused"), ("a" * 10_000, "refused"), ("0", "refused"), ("0.1", "refused"), ("8 parsecs", "refused"),
    ("<script>win=1</script>", "refused"), ("8\0", "refused"), ("\u0668", "refused"), ("1e5", "refused"), ("\ud800", "refused"),
    (-1, "refused"), (1e300, "refused"), (True, "refused"), ([8], "refused"), ({"a": 1}, "refused"), (10**400, "refused"))


def on_form(value: Any, wanted: str) -> Sent:
    def send(world: World) -> Answer:
        answer = world.generate(prompt="a ball", budget=value)
        if "<script>win" in world.heard[-1]:
            return Answer("BROKEN", "markup lives")
        good = wanted == "taken" or ("budget" in answer.words and "GiB" in answer.words and len(answer.words) < 400)
        if not good:
            return Answer("BROKEN", answer.words)
        return Answer("taken", "the job is queued") if answer.kind == "taken" else answer
    return Sent(f"form {str(value)[:24]!a}", send, wanted)


def by_command(value: str, wanted: str = "refused", says: str = "budget") -> Sent:
    return Sent(f"cli {value[:24]!a}", lambda world: world.cli("plan", "--model", "pocket", "--budget", value), wanted, says)


PUBLIC: tuple[Group, ...] = (
    Group(69, "public gallery, for people who signed in", (
        Sent("publish no ids", no_ids("publish"), "refused"), Sent("unpublish no ids", no_ids("unpublish"), "refused"),
        Sent("a viewer publishes", no_ids("publish", "vera", ""), "refused"), Sent("forged clicks", forged_clicks, "refused"),
        Sent("an admin publishes Ben's", lambda w: w.call("publish", w.ben_clip, who="root"), "refused", "no such clip"),
        Sent("searches", searches, "taken"), Sent("markup", lambda w: as_text(w, in_tab), "taken"),
        *(Sent(f"then {what}", lambda w, way=way: taken_back(w, way), "refused") for what, way in (
            ("unpublished", lambda w, clip: w.call("unpublish", clip)),
            ("taken down", lambda w, clip: w.act("take_down", who="root", clip=clip)),
            ("taken down by cli", lambda w, clip: w.cli("history", "unpublish", clip)),
            ("trashed", lambda w, clip: w.act("trash", clip=clip, search="?view=gallery")), ("trashed and restored", published_again))),
        Sent("at once", at_once, "taken"), *(Sent(said[:20], lambda w, said=said: lengths(w, said)) for said in LENGTHS),
        Sent("strangers", strangers, "refused"),
        Sent("cli Ben's", lambda w: w.cli("history", "publish", w.ben_clip), "refused", "no such clip"),
        *(command(f"{act} {each[:12]!a}", act, "--", each, says="no such clip") for act in ("publish", "unpublish")
          for each in ("../../x", "0" * 32, "", "a" * 10_000)), command("NUL", "publish", "a\0b"))),
    Group(70, "public gallery, for everybody", (
        Sent("opened", opened, "taken"), Sent("paths, methods, calls", open_paths, "refused"), Sent("HEAD, caches", heads, "taken"),
        Sent("addresses", open_searches, "taken"), Sent("signed in", own_and_signed_in, "taken"),
        Sent("markup", lambda w: as_text(w, in_page), "taken"),
        *(Sent(f"stranger {said[:12]}", lambda w, said=said: lengths(w, said, "")) for said in LENGTHS))),
    Group(71, "memory budgets", (
        *(on_form(value, wanted) for value, wanted in BUDGETS),
        *(refused(f"api {str(value)[:20]!a}", "budget", budget=value) for value in ("8 GiB", "all", -1, 0, 2**70, True, [8], "9" * 10_000)),
        number("api NaN", "budget", "NaN", "budget"), number("api 1e400", "budget", "1e400", "budget"),
        *(by_command(each) for each in ("-1", "NaN", "1e400", "9" * 10_000, "all", "8 parsecs", "")))),
)
