"""Groups 1 to 40 of `bench.bad_input`: words, numbers, calls."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bench.bad_input import Group, Sending, Sent
from bench.bad_input_world import Answer, World


def submit(**values: Any) -> Sending:
    """Through the API; what is not said is left out."""
    def send(world: World) -> Answer:
        return world.call("submit_batch", [{"prompt": "a ball", **values}])
    return send


def refused(what: str, says: str = "", **values: Any) -> Sent:
    return Sent(what, submit(**values), "refused", says)


def prompt(what: str, text: str, wanted: str = "taken") -> Sent:
    """Taken as words, shown as words: no live markup on the page that shows the job."""
    def send(world: World) -> Answer:
        answer = world.call("submit_batch", [{"prompt": text}])
        if answer.kind != "taken":
            return answer
        page = world.http("POST", "/gradio_api/run/predict", json=world._click | {
            "session_hash": "page-anna", "event_data": {"act": "go", "search": "?view=queue"}}).words
        live = next((bad for bad in ("<script>win", "<img src=x", "src=\\\"http://evil") if bad in page), None)
        return Answer("BROKEN", f"markup lives: {live}") if live else answer
    return Sent(what, send, wanted)


def raw_json(text: str) -> Sending:
    """A body that Python's JSON would not write."""
    return lambda world: world.call("submit_batch", body=text.encode())


def number(what: str, field: str, token: str, says: str = "") -> Sent:
    return Sent(what, raw_json('{"data": [[{"prompt": "a", "' + field + '": ' + token + "}]]}"), "refused", says)


def cli(what: str, *arguments: str, wanted: str = "refused", says: str = "") -> Sent:
    return Sent(f"cli {what}", lambda world: world.cli("generate", "--json", *arguments), wanted, says)


def others(world: World) -> Answer:
    """Everything that takes an id, with Ben's."""
    job, clip = world.ben_job, world.ben_clip
    told = [world.call("job", job), world.call("cancel", job), world.call("key_frames", job), world.call("go_on", job),
            world.call("interpolate", clip, 24), *(world.http("GET", path) for path in (
                f"/media/clips/{clip}.mp4", f"/media/clips/{clip}.json", f"/media/posters/{clip}.webp", f"/media/stills/{clip}.webp",
                f"/media/previews/{job}.webp"))]
    for act, said in (("cancel", {"job": job}), ("retry", {"job": job}), ("duplicate", {"job": job}), ("take_back", {"job": job}),
                      ("trash", {"clip": clip}), ("remix", {"clip": clip}), ("restore", {"clip": clip}), ("again", {"clip": clip}),
                      ("rename", {"clip": clip, "name": "mine"}), ("favourite", {"clip": clip, "value": "1"})):
        world.act(act, **said)
    world.act("go", search=f"?view=gallery&clip={clip}")
    world.act("go", search=f"?view=create&job={job}")
    world.call("clips", "apple")
    reached = [answer.words[:80] for answer in told if answer.kind == "taken"]
    if reached:
        return Answer("BROKEN", f"reached: {reached}")
    here = world.http("GET", f"/media/clips/{clip}.json", who="ben")
    world.heard.pop()
    return Answer("refused", f"{len(told)} ids and 12 clicks refused") if here.kind == "taken" else Answer("BROKEN", "Ben's clip is gone")


def forged(world: World) -> Answer:
    """Ben's session and a cookie that was never given out."""
    world.act("go", who="ben")
    world.heard.pop()
    sent = world._click | {"session_hash": "page-ben", "event_data": {"act": "go", "search": "?view=queue"}}
    session = world.http("POST", "/gradio_api/run/predict", json=sent)
    cookie = world.http("GET", "/gradio_api/info", headers={"authorization": "", "cookie": "sprocket_session=" + "a" * 43})
    return session if session.kind != "refused" else cookie


def twice(world: World) -> Answer:
    """The same key, twice for one thing and once for another."""
    one = world.call("submit_batch", [{"prompt": "once"}], "key-1")
    again = world.call("submit_batch", [{"prompt": "once"}], "key-1")
    if one != again:
        return Answer("BROKEN", f"{one} is not {again}")
    return world.call("submit_batch", [{"prompt": "another"}], "key-1")


def cancels(world: World) -> Answer:
    """Before it is claimed, twice, and after the end."""
    job = json.loads(world.call("submit", "stop me").words)[0]
    states = [world.call("cancel", job) for _ in range(3)]
    done = json.loads(world.call("submit", "stop me not").words)[0]
    time.sleep(3)
    world.call("cancel", done)
    state = world.call("job", done)
    return state if all(each.kind in ("taken", "refused") for each in states) else Answer("BROKEN", str(states))


def crowd(world: World) -> Answer:
    """A hundred at once: every one is a job or is told why not."""
    with ThreadPoolExecutor(100) as many:
        answers = list(many.map(lambda n: world.call("submit", f"crowd {n}"), range(100)))
    ids = [answer.words for answer in answers if answer.kind == "taken"]
    no = [answer.words for answer in answers if answer.kind == "refused"]
    whole = len(ids) + len(no) == 100 and len(set(ids)) == len(ids) and all(no)
    return Answer("taken" if whole else "BROKEN", f"{len(ids)} jobs, {len(no)} refused: {no[0][:90] if no else ''}")


def huge_upload(world: World) -> Answer:
    """Five gigabytes announced."""
    head = ("POST /media/uploads HTTP/1.1", f"Host: 127.0.0.1:{world.port}", f"Authorization: Bearer {world.tokens['anna']}",
            "Content-Length: 5368709120", "", "abc")
    return world.raw("\r\n".join(head).encode())


def slow_lines(world: World) -> Answer:
    """Forty connections that say a byte now and then do not keep others waiting."""
    with ThreadPoolExecutor(40) as many:
        def drip(_: int) -> None:
            with world.wire() as line:
                for byte in b"POST /media/uploads HTTP/1.1\r\nHost: x":
                    line.send(bytes([byte]))
                    time.sleep(0.1)
        dripping = [many.submit(drip, n) for n in range(40)]
        time.sleep(0.5)
        begun = time.monotonic()
        answer = world.http("GET", "/pulse")
        for each in dripping:
            each.result()
    return answer if time.monotonic() - begun < 30 and answer.kind == "taken" else Answer("BROKEN", answer.words)


def ranges(world: World, said: str) -> Answer:
    """Of Ben's clip, by Ben."""
    answer = world.http("GET", f"/media/clips/{world.ben_clip}.mp4", who="ben", headers={"range": said})
    world.heard.pop()
    return Answer(answer.kind, answer.words[:8])


def path(where: str, method: str = "GET", **more: Any) -> Sending:
    return lambda world: world.http(method, where, **more)


def page_numbers(world: World) -> Answer:
    """Every event of the page by its number, without a session of one's own."""
    bad = []
    for fn in world.events:
        answer = world.http("POST", "/gradio_api/run/predict", json={"fn_index": fn, "data": []})
        if answer.words.startswith("HTTP 200") and "Traceback" in answer.words:
            bad.append(fn)
    wrong = world.http("POST", "/gradio_api/run/predict", json={"fn_index": 99999, "data": []})
    return Answer("BROKEN", f"{bad}") if bad else Answer(wrong.kind, f"{len(world.events)} events by number, then {wrong.words[:90]}")


ZALGO, FAMILY = "a" + "\u0301" * 1500, "\U0001F469\u200D\U0001F469\u200D\U0001F467"
NESTED = b'{"data": [' + b"[" * 10_000 + b"]" * 10_000 + b"]}"

WORDS: tuple[Group, ...] = (
    Group(1, "empty prompt", (refused("api", "prompt", prompt=""), cli("", "--prompt", "", says="prompt"))),
    Group(2, "spaces only", (refused("api", "prompt", prompt="  \t \u00a0"), cli("", "--prompt", "   "))),
    Group(3, "2,001 and 1,000,000 letters", (refused("2,001", "2,000", prompt="a" * 2001), refused("1,000,000", "", prompt="a" * 1_000_000),
                                            refused("5,000,000", "", prompt="a" * 5_000_000))),
    Group(4, "NUL byte", (Sent("api", submit(prompt="a\0b")), cli("", "--prompt", "a\0b"))),
    Group(5, "lone surrogate", (Sent("api", raw_json('{"data": [[{"prompt": "a \\ud800 b"}]]}'), "refused"),)),
    Group(6, "right-to-left override", (prompt("api", "a red ball \u202ellab"),)),
    Group(7, "1,500 and 10,000 combining marks", (prompt("1,500", ZALGO), refused("10,000", "", prompt="a" + "\u0301" * 10_000))),
    Group(8, "joined emoji only", (prompt("api", FAMILY),)),
    Group(9, "markup", (prompt("script", "<script>window.hacked=1</script>"), prompt("img", "<img src=x onerror=alert(1)>"))),
    Group(10, "templates", (prompt("both", "{{constructor.constructor('alert(1)')()}} ${7*7}"),)),
    Group(11, "picture that calls home", (prompt("markdown", "![](http://evil.example/?c=1)"),)),
    Group(12, "forged log line, terminal codes", (prompt("lines", "a\n2026-01-01 ERROR all is lost"),
                                                 prompt("codes", "a \x1b[31mred\x1b[0m ball", "either"))),
    Group(13, "SQL", (prompt("drop", "'); DROP TABLE jobs; --"), Sent("search", lambda w: w.call("clips", "%_\\'\""), "taken"))),
    Group(14, "wildcards and deep nesting", (prompt("path", "__../../etc/passwd__", "taken"), prompt("nested", "{a|{b|" * 300, "refused"),
                                            refused("10,000 deep", "", prompt="{a|" * 10_000))),
    Group(15, "unbalanced weights", (prompt("1,900", "(" * 1900, "refused"), refused("5,000", "", prompt="(" * 5000))),
    Group(16, "NaN", tuple(number(field, field, "NaN", field) for field in ("guidance", "steps", "fps", "strength"))),
    Group(17, "infinity", (number("Infinity", "guidance", "Infinity"), number("-Infinity", "guidance", "-Infinity"),
                           number("1e400", "guidance", "1e400"))),
    Group(18, "-1", tuple(refused(field, field, **{field: -1}) for field in ("steps", "frames", "width", "seed", "guidance"))),
    Group(19, "no frames, no steps", (refused("frames", "frames", frames=0), refused("steps", "steps", steps=0),
                                     cli("steps", "--prompt", "a", "--steps", "0", says="steps"))),
    Group(20, "seeds of 2^63 and 2^64", (refused("2^63", "seed", seed=2**63), refused("2^64", "seed", seed=2**64),
                                        cli("2^64", "--prompt", "a", "--seed", str(2**64), says="seed"))),
    Group(21, "widths of 1, 17, 8192", tuple(refused(str(width), "width", width=width) for width in (1, 17, 8192))),
    Group(22, "82 frames", (refused("api", "frames", frames=82), cli("", "--prompt", "a", "--frames", "82", says="frames"))),
    Group(23, "frame rates of 0 and 1e9", (refused("0", "fps", fps=0), refused("1e9", "fps", fps=1e9))),
    Group(24, "other types", tuple(refused(repr(value), "steps", steps=value) for value in ("5", [5], {"a": 1}, True, 2.5))),
    Group(25, "guidance of 1e308", (refused("api", "guidance", guidance=1e308),)),
    Group(26, "10^9 steps", (refused("api", "steps", steps=10**9),)),
    Group(27, "LoRA weights", (number("NaN", "loras", '[["' + "a" * 64 + '", NaN]]', "loras"),
                               refused("1e6", "loras", loras=[["a" * 64, 1e6]]))),
    Group(28, "ranges the wrong way round", (refused("key frames over frames", "", key_frames=999, frames=9),
                                            refused("strength over 1", "strength", strength=1.5))),
    Group(29, "missing and extra fields", (Sent("none", lambda w: w.call("submit"), "refused", "prompt"),
                                          Sent("fifty", lambda w: w.call("submit", *["a"] * 50)), refused("wings", "wings", wings=2),
                                          Sent("no list", lambda w: w.call("submit_batch", {"prompt": "a"}), "refused"))),
    Group(30, "private events called raw", (Sent("by number", page_numbers, "refused"),
                                               Sent("by name", path("/gradio_api/call/on_act", "POST", json={}), "refused"))),
    Group(31, "another's job and clip", (Sent("ids, clicks, media", others, "refused"),)),
    Group(32, "forged session and cookie", (Sent("both", forged, "refused"),)),
    Group(33, "replayed submit", (Sent("same key", twice, "refused", "idempotency_key"),)),
    Group(34, "cancel early, twice, late", (Sent("all", cancels, "taken"),)),
    Group(35, "100 submits at once", (Sent("all", crowd, "taken"),)),
    Group(36, "foreign Origin and Host", (
        Sent("origin", path("/media/uploads", "POST", content=b"x", headers={"origin": "http://evil.example"}), "refused", "other sites"),
        Sent("null", path("/media/uploads", "POST", content=b"x", headers={"origin": "null"}), "refused"),
        Sent("host", path("/", headers={"host": "evil.example"}), "refused", "host name"))),
    Group(37, "5 GB, slow senders", (Sent("5 GB", huge_upload, "refused"), Sent("slow", slow_lines, "taken"),
                                     Sent("5 MiB event", path("/gradio_api/call/submit", "POST", content=b" " * (5 << 20)), "refused"))),
    Group(38, "ranges", tuple(Sent(said[:24], lambda w, said=said: ranges(w, said)) for said in (
        "bytes=0-", "bytes=" + ",".join(["1-1"] * 10_000), "bytes=999999999-", "bytes=9-1", "lines=1-2", "bytes=-0"))),
    Group(39, "addresses with paths", (Sent("job", lambda w: w.act("go", search="?view=create&job=../../x"), "taken"),
                                       Sent("media", path("/media/clips/..%2f..%2fhistory.db.mp4"), "refused"),
                                       Sent("file", path("/gradio_api/file=/etc/passwd"), "refused", hides="root:x"),
                                       Sent("history", path("/gradio_api/file=history.db"), "refused"))),
    Group(40, "JSON 10,000 deep", (Sent("event", lambda w: w.call("submit", body=NESTED), "refused"),
                                   Sent("form", path("/signin", "POST", content=NESTED)))),
)
