"""An OpenAI-compatible chat server on this machine: `/v1/chat/completions`, streamed as server-sent events, with faults on demand.

It answers with what `reply` says, piece by piece; `random_model_reply` makes that a real (tiny, random) chat model of transformers.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Reply = Callable[[dict[str, Any]], Iterator[str]]
FAULTS = ("401", "404", "429", "500", "503", "drop", "drop-before", "endless", "huge", "slow", "silent", "redirect", "redirect-private",
          "json", "html", "garbage", "error-event", "not-a-dict", "long-line", "no-choices")


def saying(text: str, pause: float = 0.0) -> Reply:
    """The same answer to everything, word by word."""

    def reply(_request: dict[str, Any]) -> Iterator[str]:
        for number, word in enumerate(text.split(" ")):
            time.sleep(pause)
            yield word if number == 0 else f" {word}"

    return reply


class ChatServer:
    """`url` is the base for an OpenAI client. `heard`: (headers, body) of each request."""

    def __init__(self, reply: Reply, *, fault: str = "", pause: float = 0.0) -> None:
        self.reply, self.fault, self.pause = reply, fault, pause
        self.heard: list[tuple[dict[str, str], dict[str, Any]]] = []
        self.most_at_once = 0
        self._now = 0
        self._lock = threading.Lock()
        self.over = threading.Event()
        chat = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                chat.heard.append((dict(self.headers), {"path": self.path, "method": "GET"}))
                self.send_error(404)

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with chat._lock:
                    chat.heard.append((dict(self.headers), body | {"path": self.path}))
                    chat._now += 1
                    chat.most_at_once = max(chat.most_at_once, chat._now)
                try:
                    chat._answer(self, body)
                except (BrokenPipeError, ConnectionResetError):
                    pass
                finally:
                    self.close_connection = True
                    with chat._lock:
                        chat._now -= 1

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.port = self._http.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.over.set()
        self._http.shutdown()
        self._http.server_close()

    def _answer(self, to: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        if self.fault.isdigit():
            # As careless servers do: the key comes back in the error.
            shown = json.dumps({"error": {"message": f"bad key {to.headers.get('authorization')}"}}).encode()
            _head(to, int(self.fault), "application/json", len(shown))
            to.wfile.write(shown)
            return
        if special := getattr(self, f"_{self.fault.replace('-', '_')}", None):
            special(to)
            return
        _head(to, 200, "text/event-stream")
        for number, piece in enumerate(self.reply(body)):
            time.sleep(self.pause)
            _event(to, piece)
            if self.fault == "drop" and number == 2:
                to.connection.close()
                return
        to.wfile.write(b"data: [DONE]\n\n")

    def _drop_before(self, to: BaseHTTPRequestHandler) -> None:
        to.connection.close()

    def _endless(self, to: BaseHTTPRequestHandler) -> None:
        _head(to, 200, "text/event-stream")
        while not self.over.is_set():
            _event(to, "round and round ")

    def _huge(self, to: BaseHTTPRequestHandler) -> None:
        _head(to, 200, "text/event-stream")
        _event(to, "x" * 10_000_000)

    def _long_line(self, to: BaseHTTPRequestHandler) -> None:
        _head(to, 200, "text/event-stream")
        to.wfile.write(b"data: " + b" " * 10_000_000)

    def _slow(self, to: BaseHTTPRequestHandler) -> None:
        _head(to, 200, "text/event-stream")
        while not self.over.wait(0.05):
            _event(to, "a ")

    def _silent(self, to: BaseHTTPRequestHandler) -> None:
        _head(to, 200, "text/event-stream")
        self.over.wait(30)

    def _redirect(self, to: BaseHTTPRequestHandler, place: str = "") -> None:
        to.send_response(307)
        to.send_header("Location", place or f"http://127.0.0.1:{self.port}/v1/elsewhere")
        to.send_header("Content-Length", "0")
        to.end_headers()

    def _redirect_private(self, to: BaseHTTPRequestHandler) -> None:
        self._redirect(to, "http://169.254.169.254/latest/meta-data/")

    def _json(self, to: BaseHTTPRequestHandler) -> None:
        said = json.dumps({"choices": [{"message": {"content": "a ball"}}]}).encode()
        _head(to, 200, "application/json", len(said))
        to.wfile.write(said)

    def _html(self, to: BaseHTTPRequestHandler) -> None:
        said = b"<html><body>Sign in</body></html>"
        _head(to, 200, "text/html", len(said))
        to.wfile.write(said)

    def _garbage(self, to: BaseHTTPRequestHandler) -> None:
        _head(to, 200, "text/event-stream")
        to.wfile.write(b"data: {\xff\xfe not json\n\n")

    def _error_event(self, to: BaseHTTPRequestHandler) -> None:
        _head(to, 200, "text/event-stream")
        to.wfile.write(b'data: {"error": {"message": "out of memory", "key": "sk-in-the-error"}}\n\n')

    def _not_a_dict(self, to: BaseHTTPRequestHandler) -> None:
        _head(to, 200, "text/event-stream")
        to.wfile.write(b'data: [1, 2]\n\ndata: [DONE]\n\n')

    def _no_choices(self, to: BaseHTTPRequestHandler) -> None:
        _head(to, 200, "text/event-stream")
        to.wfile.write(b'data: {"id": "1", "object": "x"}\n\ndata: [DONE]\n\n')


def _head(to: BaseHTTPRequestHandler, status: int, kind: str, length: int | None = None) -> None:
    to.send_response(status)
    to.send_header("Content-Type", kind)
    to.send_header("Connection", "close")
    if length is not None:
        to.send_header("Content-Length", str(length))
    to.end_headers()


def _event(to: BaseHTTPRequestHandler, piece: str) -> None:
    event = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "system_fingerprint": "",
             "choices": [{"index": 0, "delta": {"role": "assistant", "content": piece}, "finish_reason": None}]}
    to.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
    to.wfile.flush()


@contextlib.contextmanager
def chatting(reply: Reply, **how: Any) -> Iterator[ChatServer]:
    server = ChatServer(reply, **how)
    try:
        yield server
    finally:
        server.close()


WORDS = "a red blue ball star moves over under the green meadow sea slowly fast it rises falls and then turns bright light camera still"
TEMPLATE = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}[assistant] "


def write_tiny_chat_model(folder: Path) -> Path:
    """A real chat model of transformers with random weights, one megabyte: a Llama of two layers, its words those of the prompts."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    letters = {word: number for number, word in enumerate(["<s>", "</s>", "<unk>", *WORDS.split()])}
    core = Tokenizer(models.WordLevel(letters, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="</s>", unk_token="<unk>")
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(letters), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                                         num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=4096,
                                         bos_token_id=0, eos_token_id=1))  # fmt: skip
    model.generation_config.suppress_tokens = [0, 1, 2]  # it never knows when to stop, and says nothing special
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def random_model_reply(folder: Path) -> Reply:
    """What the model in `folder` says, token by token as it is generated."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, TextIteratorStreamer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)

    def reply(request: dict[str, Any]) -> Iterator[str]:
        inputs = tokenizer.apply_chat_template(request["messages"], add_generation_prompt=True, return_tensors="pt", return_dict=True)
        streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
        worker = threading.Thread(target=model.generate, kwargs={**inputs, "max_new_tokens": 24, "do_sample": False, "streamer": streamer})
        worker.start()
        yield from streamer
        worker.join()

    return reply
