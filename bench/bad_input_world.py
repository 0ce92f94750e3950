"""The running server that `bench.bad_input` sends things to, and what its answers mean."""

from __future__ import annotations

import contextlib
import html
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from app.settings import Settings
from app.sharing.users import Users
from app.sharing.visitor import Role
from app.studio import open_studio

ROOT = Path(__file__).resolve().parents[1]
SECRET = "kx7731 apple"
"""In everything of Ben's; Anna must never be told."""
PATIENCE = 60.0


@dataclass(frozen=True)
class Answer:
    """What came back for one thing sent."""

    kind: str
    """'taken', 'refused' (with words), or 'BROKEN': no words, a traceback, a crash."""
    words: str


class World:
    """One server as it is installed, with two makers, a viewer and an admin, in folders of its own."""

    def __init__(self, base: Path) -> None:
        self.base, self.data, self.outside = base, base / "data", base / "outside"
        self.heard: list[str] = []
        """All that was answered since it was last looked at."""
        for folder in (self.outside, base / "home", base / "tmp", base / "files"):
            folder.mkdir(parents=True)
        users, self.tokens = Users(self.data / "users.json"), {}
        for name, role in (("anna", Role.MAKER), ("ben", Role.MAKER), ("vera", Role.VIEWER), ("root", Role.ADMIN)):
            users.add(name, role, None)
            self.tokens[name] = users.add_token(name)
        self.environment = {key: value for key, value in os.environ.items() if not key.startswith("SPROCKET_")} | {
            "SPROCKET_ENGINE": "tests.fakes:FakeEngine", "SPROCKET_MIN_FREE_BYTES": "0", "FAKE_STEP_SECONDS": "0",
            "SPROCKET_SUBMITS_A_MINUTE": "100000", "SPROCKET_QUEUED_EACH": "100", "SPROCKET_QUEUE_SIZE": "300",
            "SPROCKET_DATA_DIR": str(self.data), "SPROCKET_REFINER_SECONDS": "3", "PYTHONPATH": str(ROOT), "HOME": str(base / "home"),
            "TMPDIR": str(base / "tmp"), "HF_ENDPOINT": "http://127.0.0.1:9", "FAKE_MODEL": str(ROOT / "assets" / "pocket")}
        self.server = self._start()
        self._client = httpx.Client(base_url=self.url, timeout=PATIENCE)
        config = self._client.get("/config", headers=self.bearer("anna")).json()
        self.events = [each["id"] for each in config["dependencies"]]
        panel = next(each["id"] for each in config["components"] if each["props"].get("elem_id") == "relay")
        click = next(each for each in config["dependencies"] if each["targets"] == [[panel, "click"]])
        values = {each["id"]: each["props"].get("value") for each in config["components"]}
        self._click = {"fn_index": click["id"], "trigger_id": panel, "data": [values[each] for each in click["inputs"]]}
        self._form = form_of(config, values)
        self.ben_job = json.loads(self.call("submit", f"{SECRET} of Ben", who="ben").words)[0]
        self.ben_clip = self.clip_of(self.ben_job)
        self.heard.clear()
        self._before = self.tree()

    def _start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", "from app.cli import main; main()", "serve", "--port", "0", "--data-dir", str(self.data)]
        server = subprocess.Popen(command, cwd=self.outside, env=self.environment, stderr=subprocess.PIPE, text=True)
        assert server.stderr is not None
        self.url = "http://" + next(line for line in server.stderr if "http://" in line).split("http://")[1].split()[0]
        self._log = server.stderr
        self.port = int(self.url.rsplit(":", 1)[1])
        end = time.monotonic() + 120
        while time.monotonic() < end:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{self.url}/readyz").status_code == 200:
                    return server
            time.sleep(0.2)
        raise SystemExit("the server did not come up")

    def clip_of(self, job: str) -> str:
        """The clip a job has made, once it has."""
        with contextlib.closing(open_studio(Settings(data_dir=self.data, engine="tests.fakes:FakeEngine", min_free_bytes=0))) as studio:
            for _ in range(600):
                if clip := studio.store.jobs.get(job).clip_id:
                    return clip
                time.sleep(0.1)
        raise SystemExit("no clip was made")

    # ---- ways in

    def restart(self, **more: str) -> None:
        """The server ends and begins again over the same data, with `more` in its environment."""
        self._client.close()
        self.server.terminate()
        if code := self.server.wait(40):
            raise SystemExit(f"the server ended with exit code {code}")
        self.environment |= more
        self.server = self._start()
        self._client = httpx.Client(base_url=self.url, timeout=PATIENCE)

    def bearer(self, who: str) -> dict[str, str]:
        """'': a stranger."""
        return {"authorization": f"Bearer {self.tokens[who]}"} if who else {}

    def http(self, method: str, path: str, *, who: str = "anna", headers: Mapping[str, str] | None = None, **more: Any) -> Answer:
        """One request."""
        try:
            answer = self._client.request(method, path, headers={**self.bearer(who), **(headers or {})}, **more)
        except httpx.HTTPError as error:
            return self._heard("BROKEN", f"no answer: {error!r}")
        words = f"HTTP {answer.status_code} {answer.text[:20000] if 'video' not in answer.headers.get('content-type', '') else ''}"
        if answer.status_code < 400:
            return self._heard("taken", words)
        said = answer.content or answer.status_code == 416  # that number says all
        return self._heard("refused" if answer.status_code not in (500, 502) and said else "BROKEN", words)

    def call(self, name: str, *values: Any, who: str = "anna", body: bytes | None = None) -> Answer:
        """A named endpoint: its result, or the words of its error."""
        content = body if body is not None else json.dumps({"data": values}).encode()
        begun = self.http("POST", f"/gradio_api/call/{name}", who=who, content=content, headers={"content-type": "application/json"})
        if begun.kind != "taken":
            return begun
        event = json.loads(begun.words.partition(" ")[2].partition(" ")[2])["event_id"]
        said = self.http("GET", f"/gradio_api/call/{name}/{event}", who=who).words
        result = said.rpartition("data: ")[2].strip()
        if "event: complete" in said:
            return Answer("taken", result)
        told = re.search(r'"error":\s*"((?:[^"\\]|\\.)+)"', result) or re.search(r'^"(.+)"$', result)
        return Answer("refused", told[1]) if told else Answer("BROKEN", said)

    def act(self, name: str, /, *, who: str = "anna", session: str = "page", search: str = "?view=create", **said: Any) -> Answer:
        """A click on the page; the words are all that is redrawn, without markup."""
        sent = self._click | {"session_hash": f"{session}-{who}", "event_data": {"act": name, "search": search, **said}}
        answer = self.predict(sent, who)
        if answer.kind != "taken":
            return answer
        texts = [str(each.get("value", "")) if isinstance(each, dict) else str(each) for each in json.loads(
            answer.words.partition(" ")[2].partition(" ")[2])["data"] if each]
        return Answer("taken", " ".join(re.sub(r"<[^>]*>", " ", "".join(text for text in texts if "<" in text)).split()))

    def predict(self, sent: Mapping[str, Any], who: str = "anna") -> Answer:
        """One event as it is, also what is no text (lone surrogates) or no number."""
        return self.http("POST", "/gradio_api/run/predict", who=who, content=json.dumps(sent).encode(),
                         headers={"content-type": "application/json"})

    def generate(self, who: str = "anna", **values: Any) -> Answer:
        """Generate pressed on a form that says `values`, as a forged event would send them: refused with the words below the button."""
        data = [values.get(name, usual) for name, usual in self._form["inputs"]]
        answer = self.predict({"fn_index": self._form["fn_index"], "session_hash": f"form-{who}", "data": data}, who)
        problem = re.search(r'class=\\"forecast problem.*?</p>', answer.words)
        return Answer("refused", html.unescape(re.sub(r"<[^>]*>", "", problem[0].partition(">")[2]))) if problem else answer

    def upload(self, content: bytes, purpose: str = "any", **said: Any) -> Answer:
        """A file from a browser, and what the page says of it: refused where it says why not."""
        sent = self.http("POST", "/media/uploads", content=content)
        if sent.kind != "taken":
            return sent
        token = json.loads(sent.words.partition(" ")[2].partition(" ")[2])["upload"]
        answer = self.act("take", session=token, upload=token, purpose=purpose, **said)  # a page of its own
        return answer if answer.kind != "taken" else Answer("taken" if answer.words else "BROKEN", answer.words[-300:])

    def dataset(self, files: Mapping[str, bytes]) -> Answer:
        """Files as a set to learn from, through an admin's page: what is said of it in the end."""
        sent = []
        for name, content in files.items():
            answer = self.http("POST", "/media/uploads", who="root", content=content)
            if answer.kind != "taken":
                return answer
            sent.append({"upload": json.loads(answer.words.partition(" ")[2].partition(" ")[2])["upload"], "name": name})
        answer = self.act("dataset_take", who="root", files=sent, search="?view=train")
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and answer.kind == "taken":
            time.sleep(0.3)
            answer = self.act("go", who="root", search="?view=train")
            if "Stop" not in answer.words:
                break
        told = answer.words.partition("Sign out")[2]
        return Answer(answer.kind if told else "BROKEN", told[-200:])

    def cli(self, *arguments: str, more: Mapping[str, str] | None = None, seconds: float = 3 * PATIENCE) -> Answer:
        """The command line, elsewhere than the server's folder."""
        command = [sys.executable, "-c", "from app.cli import main; main()", *arguments]
        try:
            done = subprocess.run(command, check=False, cwd=self.outside, env={**self.environment, **(more or {})}, capture_output=True,
                                  text=True, timeout=seconds, stdin=subprocess.DEVNULL, errors="replace")
        except (subprocess.TimeoutExpired, ValueError) as error:  # a NUL byte never reaches a program
            return self._heard("BROKEN" if isinstance(error, subprocess.TimeoutExpired) else "refused", repr(error)[:200])
        text = (done.stderr.strip() or done.stdout.strip())[-1500:]
        if done.returncode == 0:
            return self._heard("taken", text)
        broken = "Traceback" in text or not text or done.returncode < 0
        return self._heard("BROKEN" if broken else "refused", f"exit {done.returncode}: {text}")

    @contextlib.contextmanager
    def wire(self) -> Iterator[socket.socket]:
        """A bare connection."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE) as line:
            yield line

    def raw(self, sent: bytes) -> Answer:
        """Bytes as they are, and the answer's first line and last words."""
        with self.wire() as line:
            line.sendall(sent)
            line.shutdown(socket.SHUT_WR)
            said = b""
            with contextlib.suppress(OSError):
                while more := line.recv(1 << 16):
                    said += more
        words = said.decode("latin-1")
        status = words[9:12]
        kind = "taken" if status[:1] in ("2", "3") else "refused" if status[:1] == "4" or status == "503" else "BROKEN"
        return self._heard(kind, f"HTTP {status} {words.rpartition(chr(10))[2][:200]}")

    def file(self, name: str, content: bytes = b"") -> Path:
        """A file to hand over, in a folder of its own."""
        path = self.base / "files" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def _heard(self, kind: str, words: str) -> Answer:
        self.heard.append(words)
        return Answer(kind, words)

    # ---- what must stay true

    def tree(self) -> set[str]:
        """All files outside the data folder that the server or a command could have written."""
        folders = (self.outside, self.base / "home", self.base / "tmp")
        return {str(path.relative_to(self.base)) for folder in folders for path in folder.rglob("*") if "__pycache__" not in path.parts}

    def wrong(self) -> list[str]:
        """What is not as it must be, since it was last asked."""
        found = []
        if self.server.poll() is not None:
            found.append("the server is gone")
        else:
            try:
                if httpx.get(f"{self.url}/healthz", timeout=20).status_code != 200:
                    found.append("the server is not well")
            except httpx.HTTPError as error:
                found.append(f"the server does not answer: {error!r}")
        if any(SECRET in words for words in self.heard):
            found.append("something of Ben's was told to Anna")
        self.heard.clear()
        if new := self.tree() - self._before:
            found.append(f"written outside the data folder: {sorted(new)[:3]}")
            self._before |= new
        return found

    def close(self) -> int:
        """Stops the server; its exit code."""
        self._client.close()
        self.server.terminate()
        code = self.server.wait(40)
        shutil.rmtree(self.base / "files", ignore_errors=True)
        return code


def form_of(config: Mapping[str, Any], values: Mapping[int, Any]) -> dict[str, Any]:
    """The event of Generate: its number, and each input as (name, what it says at first); a setting of the form has its field's name."""
    names = {each["id"]: str(each["props"].get("elem_id") or "").removeprefix("field-") for each in config["components"]}
    button = next(each for each, name in names.items() if name == "generate")
    event = next(each for each in config["dependencies"] if each["targets"] == [[button, "click"]])
    return {"fn_index": event["id"], "inputs": [(names[each], values[each]) for each in event["inputs"]]}
