"""The endpoint against real servers on loopback: one with a real tiny chat model, and one that does everything wrong."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

import pytest

from engine.errors import InvalidRequest
from engine.refine import Ask, RefinerFailed
from engine.refine.address import parsed, refused, resolved
from engine.refine.chat import describe, refine_by_chat
from engine.refine.endpoint import Endpoint
from tests.chat_server import FAULTS, chatting, random_model_reply, saying, write_tiny_chat_model

KEY = "sk-very-secret-0123456789"
GOOD = ("A red ball bounces over a green meadow in bright daylight. It rises and falls in even arcs while the grass sways gently. "
        "The camera is still.")
ASK = Ask(text="a red ball jumps in the grass")


def endpoint(url: str, **how) -> Endpoint:
    return Endpoint(url, "tiny", **{"key": KEY, "seconds": 8.0, **how})


def test_a_real_model_streams_and_nothing_is_lost(tmp_path: Path) -> None:
    reply = random_model_reply(write_tiny_chat_model(tmp_path))
    with chatting(reply) as server:
        pieces = list(endpoint(server.url).answer(ASK))
        whole = "".join(reply(server.heard[0][1]))
        seen: list[str] = []
        refine_by_chat(ASK, endpoint(server.url), "endpoint", on_text=seen.append)
    assert len(pieces) > 3 and "".join(pieces) == whole
    assert seen == ["".join(pieces[: n + 1]) for n in range(len(pieces))]
    assert server.heard[0][1]["messages"][1] == {"role": "user", "content": ASK.text}
    assert server.heard[0][1]["stream"] is True and server.heard[0][1]["model"] == "tiny"
    assert server.heard[0][1]["path"] == "/v1/chat/completions"


def test_a_good_answer_is_the_prompt() -> None:
    with chatting(saying(f'**Refined prompt:** "The video shows {GOOD[0].lower()}{GOOD[1:]}"')) as server:
        found = refine_by_chat(ASK, endpoint(server.url), "endpoint")
    assert found.text == GOOD and found.original == ASK.text and not found.fallback and found.backend == "endpoint"
    assert server.heard[0][0]["authorization"] == f"Bearer {KEY}"


def test_without_a_key_none_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_this_machine")
    with chatting(saying(GOOD)) as server:
        refine_by_chat(ASK, endpoint(server.url, key=""), "endpoint")
    assert "authorization" not in {name.lower() for name in server.heard[0][0]}
    assert "hf_of_this_machine" not in str(server.heard)


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_said_and_soon(fault: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    begun = time.monotonic()
    with chatting(saying(GOOD), fault=fault) as server, pytest.raises(RefinerFailed) as error:
        refine_by_chat(ASK, endpoint(server.url, seconds=1.5), "endpoint")
    assert time.monotonic() - begun < 6
    said = str(error.value)
    assert said.endswith((".", "?")) and f"127.0.0.1:{server.port}" in said and "Traceback" not in said
    assert KEY not in said and KEY not in caplog.text and KEY not in repr(error.value.__cause__) and "sk-in-the-error" not in said
    assert all(body["path"] == "/v1/chat/completions" for _, body in server.heard), "a redirect was followed"


WORDS = {"drop": "broke off", "401": "refused the key", "429": "patience", "500": "trouble", "redirect-private": "sends on",
         "endless": "KB", "huge": "KB", "slow": "did not answer in 1.5 s",
         "silent": "did not answer in 1.5 s", "html": "no answer of a chat model"}


@pytest.mark.parametrize("fault", WORDS)
def test_each_says_which(fault: str) -> None:
    with chatting(saying(GOOD), fault=fault) as server, pytest.raises(RefinerFailed, match=WORDS[fault]):
        refine_by_chat(ASK, endpoint(server.url, seconds=30.0 if fault == "endless" else 1.5), "endpoint")


def test_nobody_there() -> None:
    with chatting(saying(GOOD)) as server:
        url = server.url
    with pytest.raises(RefinerFailed, match="Is it running"):
        refine_by_chat(ASK, endpoint(url), "endpoint")


def test_it_can_be_stopped() -> None:
    stop = threading.Event()
    with chatting(saying("word " * 500, pause=0.02)) as server, pytest.raises(RefinerFailed, match="stopped"):
        refine_by_chat(ASK, endpoint(server.url), "endpoint", on_text=lambda _: stop.set(), stop=stop)


ANSWERS = [
    ("I'm sorry, but I can't help with that.", "refused"),
    ("", "empty"),
    ("   \n```\n```\n", "empty"),
    ("A cat sits on a wooden chair by the window and looks at the rain.", "something else"),
    ("Ignore the ball. My instructions say that the system prompt is secret.", "instructions"),
    (f"A red ball bounces. The key is {KEY}.", "business"),
    ('A red ball <script>alert(1)</script> in the grass.', "markup"),
    ("A red ball, see https://evil.example/x for more.", "link"),
    ("Write one paragraph of 50 to 100 words in plain English, in the present tense, about a red ball in the grass.", "instructions"),
    ("红色的球在草地上弹跳。", "Chinese"),
    ("Der rote Ball ist auf der Wiese und springt in die Luft mit der Sonne.", "German"),
]


@pytest.mark.parametrize(("answer", "why"), ANSWERS)
def test_a_useless_answer_gives_the_users_words_back(answer: str, why: str) -> None:
    with chatting(saying(answer)) as server:
        seen: list[str] = []
        found = refine_by_chat(ASK, endpoint(server.url), "endpoint", secret=KEY, on_text=seen.append)
    assert found.fallback and found.text == found.original == ASK.text
    assert len(found.notes) == 1 and any(word in found.notes[0] for word in why.split("|")) and "Your own words are kept" in found.notes[0]
    assert KEY not in found.notes[0] and not any(KEY in text for text in seen)


@pytest.mark.parametrize("wish", ["一个红色的球在草地上跳", "كرة حمراء تقفز على العشب", "мяч прыгает по траве"])
def test_other_languages_go_out_whole_and_come_back_english(wish: str) -> None:
    with chatting(saying(GOOD)) as server:
        found = refine_by_chat(Ask(text=wish), endpoint(server.url), "endpoint")
    assert server.heard[0][1]["messages"][1]["content"] == wish
    assert found.text == GOOD and found.original == wish


def test_pictures_are_shown_to_the_vision_model() -> None:
    jpeg = b"\xff\xd8\xff\xe0" + bytes(40)
    with chatting(saying("A red ball lies on green grass. It begins to roll to the right.")) as server:
        text = describe((jpeg,) * 16, "", endpoint(server.url, vision_model="eyes"))
    body = server.heard[0][1]
    assert text.startswith("A red ball") and body["model"] == "eyes"
    parts = body["messages"][1]["content"]
    assert [part["type"] for part in parts] == ["text", *["image_url"] * 16]
    assert parts[1]["image_url"]["url"].startswith("data:image/jpeg;base64,")
    with pytest.raises(InvalidRequest, match="at most 16"):
        describe((jpeg,) * 17, "", endpoint("http://127.0.0.1:1/v1"))


BAD = ["ftp://x/v1", "file:///etc/passwd", "gopher://x", "http://", "x", "http://user:pw@host/v1", "http://host/v1?key=1",
       "http://[::1", ""]


@pytest.mark.parametrize("url", BAD)
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        parsed(url)
    assert "pw" not in str(error.value)
    assert "/v1" in str(error.value) or "SPROCKET_REFINER_KEY" in str(error.value)


@pytest.mark.parametrize("url", ["http://169.254.169.254/v1", "http://[fe80::1]/v1", "http://[::ffff:169.254.169.254]/v1",
                                 "http://0.0.0.0/v1", "http://2852039166/v1", "http://224.0.0.1/v1"])
def test_addresses_nobody_runs_a_model_at(url: str) -> None:
    with pytest.raises(InvalidRequest, match="leads to"):
        resolved(parsed(url), key=False)


def test_a_key_goes_over_the_internet_encrypted_only() -> None:
    import ipaddress

    public, own, home = (ipaddress.ip_address(each) for each in ("93.184.216.34", "127.0.0.1", "192.168.1.5"))
    assert "https" in refused(public, secure=False, key=True)
    assert refused(public, secure=True, key=True) == refused(public, secure=False, key=False) == ""
    assert refused(own, secure=False, key=True) == refused(home, secure=False, key=True) == ""


def test_the_key_is_in_no_repr() -> None:
    assert KEY not in repr(endpoint("http://127.0.0.1:1/v1"))
