"""Any OpenAI-compatible chat server as a refiner, through `huggingface_hub.InferenceClient`. No torch.

The client builds the request and reads the stream; the way there is ours (`_Client._inner_post`): one connection to a checked
address, no redirect followed, time and bytes limited, and the key sent nowhere but in that one header. Without a key of its own
a server gets none: not the login token of the machine, which the client would take by itself.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from huggingface_hub import InferenceClient
from huggingface_hub.errors import BadRequestError, HfHubHTTPError, InferenceTimeoutError, TextGenerationError
from huggingface_hub.utils import get_session

from engine.refine.address import Server, parsed, resolved
from engine.refine.clean import MAX_ANSWER_CHARS
from engine.refine.prompts import messages_of
from engine.refine.result import Ask, RefinerFailed

httpx: Any = importlib.import_module(type(get_session()).__module__.partition(".")[0])
"""The HTTP library of the installed huggingface_hub: httpx, or httpx2 from 2.0 on."""
MAX_BODY_BYTES = 256 * 1024
"""Of an answer as it comes over the wire; 226 tokens are a few KB, in small stream events some 60 KB."""
MAX_ANSWER_TOKENS = 700
MAX_LINE_BYTES = 64 * 1024
READING = 1024
TEMPERATURE = 0.7


@dataclass(frozen=True)
class Endpoint:
    """A server the operator has named. `key` is in no repr, no error and no log."""

    url: str
    model: str
    key: str = field(default="", repr=False)
    seconds: float = 60.0
    """For the whole answer."""
    connect_seconds: float = 5.0
    vision_model: str = ""
    """The model that is shown pictures; '' if none is."""

    def answer(self, ask: Ask, stop: threading.Event | None = None) -> Iterator[str]:
        """Pieces of the answer as they come. Raises RefinerFailed, InvalidRequest (the address)."""
        server = parsed(self.url)
        addresses = resolved(server, key=bool(self.key))
        client = _Client(self, server, addresses, stop or threading.Event())
        with client, self._plainly(server):
            model = self.vision_model if ask.images and self.vision_model else self.model
            stream = client.chat_completion(
                messages_of(ask), model=model, stream=True, max_tokens=MAX_ANSWER_TOKENS, temperature=TEMPERATURE,
                seed=ask.version + 1, extra_body=None)
            length = 0
            for event in stream:
                if event.choices and (piece := event.choices[0].delta.content):
                    length += len(piece)
                    if length > MAX_ANSWER_CHARS:
                        raise RefinerFailed(_too_much(server))
                    yield piece

    @contextlib.contextmanager
    def _plainly(self, server: Server) -> Iterator[None]:
        """Whatever goes wrong on the way, as a message for people. The cause is not chained: it knows the request's headers."""
        try:
            yield
            return
        except RefinerFailed as error:
            said = str(error)
        except HfHubHTTPError as error:
            said = _status(error.response.status_code, server, self.model)
        except (InferenceTimeoutError, httpx.TimeoutException):
            said = f"The refiner's server {server.shown} did not answer in {self.seconds:g} s. Try again, or set"\
                   " SPROCKET_REFINER_SECONDS."
        except (httpx.TransportError, OSError):
            said = f"The connection to the refiner's server {server.shown} broke off. Is it running? Try again."
        except (TextGenerationError, BadRequestError):
            said = f"The refiner's server {server.shown} stopped with an error of its own. Its log says which."
        except (ValueError, KeyError, TypeError, AttributeError, httpx.HTTPError):
            said = f"The refiner's server {server.shown} sent something that is no answer of a chat model. Does its address end in /v1?"
        raise RefinerFailed(said) from None


def _status(code: int, server: Server, model: str) -> str:
    named = f"The refiner's server {server.shown}"
    if code in (401, 403):
        return f"{named} refused the key (answer {code}). Set SPROCKET_REFINER_KEY and start Sprocket again."
    if code == 404:
        return f"{named} has no such place or model (answer 404). Check SPROCKET_REFINER_URL and the model {model[:60]!r}."
    if code == 429:
        return f"{named} asks for patience (answer 429: too many requests). Wait a minute, then try again."
    if code in (400, 413, 422):
        return f"{named} did not understand the request (answer {code}). Check the model {model[:60]!r}."
    return f"{named} is in trouble (answer {code}). Try again later."


class _Client(InferenceClient):
    """The hub's client with a transport that goes nowhere else. Use as a context; one call each."""

    def __init__(self, endpoint: Endpoint, server: Server, addresses: tuple[str, ...], stop: threading.Event) -> None:
        super().__init__(base_url=server.url, api_key=endpoint.key or "-", timeout=endpoint.seconds)
        self._endpoint, self._server, self._addresses, self._stop = endpoint, server, addresses, stop

    def _inner_post(self, request_parameters: Any, *, stream: bool = False) -> Any:
        headers = {name: value for name, value in request_parameters.headers.items() if name.lower() not in ("authorization", "cookie")}
        headers |= {"accept-encoding": "identity", "content-type": "application/json"}
        if self._endpoint.key:
            headers["authorization"] = f"Bearer {self._endpoint.key}"
        limits = httpx.Timeout(self._endpoint.seconds, connect=self._endpoint.connect_seconds)
        session = self.exit_stack.enter_context(httpx.Client(
            follow_redirects=False, timeout=limits, trust_env=False, transport=httpx.HTTPTransport(trust_env=False, retries=0)))
        end = time.monotonic() + self._endpoint.seconds
        response = self.exit_stack.enter_context(self._opened(session, request_parameters, headers))
        if response.is_redirect:
            raise RefinerFailed(f"The refiner's server {self._server.shown} sends on to another address, and Sprocket does not follow. "
                                "Put the final address into SPROCKET_REFINER_URL.")
        if response.status_code >= 400:
            raise RefinerFailed(_status(response.status_code, self._server, self._endpoint.model))
        lines = self._lines(response, end)
        return lines if stream else "\n".join(lines).encode()

    def _opened(self, session: Any, request: Any, headers: dict[str, str]) -> Any:
        """The answer's head, from the first address that takes the connection. The name was looked up once, and that counts."""
        last: Exception | None = None
        for number in self._addresses:
            try:
                sent = session.build_request("POST", _at(request.url, number), json=request.json, content=request.data,
                                             headers={**headers, "host": _host(self._server)},
                                             extensions={"sni_hostname": self._server.host})
                response = session.send(sent, stream=True)
                return contextlib.closing(response)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                last = error
        raise last or RefinerFailed("The refiner's server has no address.")

    def _lines(self, response: Any, end: float) -> Iterator[str]:
        """Lines of the body, each whole; stops reading at the limits of bytes and time."""
        held, seen, ended = b"", 0, False
        for block in response.iter_raw(READING):
            seen += len(block)
            held += block
            if seen > MAX_BODY_BYTES or len(held) > MAX_LINE_BYTES:
                raise RefinerFailed(_too_much(self._server))
            if self._stop.is_set():
                raise RefinerFailed("Refining was stopped.")
            if time.monotonic() > end:
                raise httpx.ReadTimeout("too slow")
            *whole, held = held.split(b"\n")
            for line in whole:
                text, last = _checked(line)
                ended = ended or last
                yield text
        if held.strip():
            text, last = _checked(held)
            ended = ended or last
            yield text
        if not ended:  # a connection that ends is no answer that ends
            raise httpx.RemoteProtocolError("the stream has no end") if seen else ValueError("nothing came")


def _checked(line: bytes) -> tuple[str, bool]:
    """(a line of the stream, is it the answer's end), looked at before the client does: a fault of the server is one, in any shape.

    Raises ValueError for what no chat server streams, TextGenerationError for an error it reports.
    """
    text = line.decode("utf-8", "replace").strip()
    if not text.startswith("data:"):
        if text and not text.startswith((":", "event:", "id:", "retry:")):
            raise ValueError("no event of a stream")
        return "", False
    data = text.removeprefix("data:").strip()
    if data == "[DONE]":
        return "data: [DONE]", True
    event = json.loads(data)
    if not isinstance(event, dict) or not isinstance(event.get("choices", None if "error" not in event else []), list):
        raise ValueError("an event without choices")
    if event.get("error") is not None:
        raise TextGenerationError("the server reports an error")
    return f"data: {data}", any(isinstance(each, dict) and each.get("finish_reason") for each in event["choices"])


def _too_much(server: Server) -> str:
    return (f"The refiner's server {server.shown} sent more than {MAX_BODY_BYTES // 1024} KB or {MAX_ANSWER_CHARS:,} letters, which is no "
            "description of a short clip. The connection was closed.")


def _at(url: str, number: str) -> str:
    """`url` with the host as a number."""
    found = httpx.URL(url)
    return str(found.copy_with(host=number))


def _host(server: Server) -> str:
    usual = server.port == (443 if server.secure else 80)
    shown = f"[{server.host}]" if ":" in server.host else server.host
    return shown if usual else f"{shown}:{server.port}"
