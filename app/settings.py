"""Every knob of one installation, documented where it is declared.

Order of precedence: arguments, then environment (`SPROCKET_` + the field's name in capitals), then the defaults here.
Reading settings creates nothing on disk; `make_folders` does.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Container
from pathlib import Path
from typing import Any

import platformdirs
from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from engine.errors import InvalidRequest
from engine.request import REFINERS
from engine.speed import Speed

MIB = 1024**2
TOGETHER, EACH = "together", "each"
DEVICE_MODES = (TOGETHER, EACH)
HERE, RAY = "here", "ray"


def refused(error: ValidationError, secrets: Container[str], also: str = "") -> InvalidRequest:
    """What is wrong with the first setting that `error` is about, and where it is set. `secrets`: settings whose value is not repeated;
    `also`: other places to set one."""
    first = error.errors()[0]
    name = str(first["loc"][0])
    shown = "that" if name in secrets else repr(str(first["input"])[:80])
    reason = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return InvalidRequest(name, f"is {shown}; it {reason}. It is set by SPROCKET_{name.upper()}{also}.")


class Settings(BaseSettings):
    """One installation. Frozen; `to_env()` gives a child process the same settings.

    Raises InvalidRequest for a value that is none, wherever it came from.
    """

    model_config = SettingsConfigDict(env_prefix="SPROCKET_", frozen=True, extra="ignore", validate_default=True)

    data_dir: Path = Field(default_factory=lambda: Path(platformdirs.user_data_dir("sprocket", appauthor=False)))
    """Everything the studio keeps: history, clips, running jobs, trash."""
    database: SecretStr = SecretStr("")
    """Queue and history on a PostgreSQL server, for several hosts: postgresql://user:password@host:port/name (docs/cluster.md).
    '': the SQLite file in `data_dir`. From the environment only, because of its password; workers get it."""
    host: str = "127.0.0.1"
    """Address the page listens on. Anything but a loopback address shows the studio to the network."""
    port: int = Field(default=7860, ge=0, le=65535)
    """TCP port of the page; 0 takes any free one."""
    models_dir: Path = Field(default_factory=lambda said: said.get("data_dir", Path()) / "models")
    """Folder with downloaded and further checkpoints in diffusers layout, one folder each; `models` in `data_dir` unless said."""
    download_patience_seconds: float = Field(default=600.0, ge=0.0)
    """A download that gets no byte for so long, however often it asks again, is given up. What has come stays."""
    executor: str = HERE
    """'here': this computer's own workers do the jobs; 'ray': a Ray cluster does (docs/cluster.md, extra `cluster`)."""
    ray_address: str = ""
    """Of the cluster: host:port, 'auto', or ray://host:port. '': a Ray of its own on this computer."""
    engine: str = "app.queue.door:SprocketEngine"
    """`module:callable` that makes the engine's door (`app.queue.door.Engine`). Tests put a fake one here."""
    checkpoint_seconds: float = Field(default=30.0, ge=0.0)
    """A running job saves its sampling state at most this far apart, in seconds."""
    preview_seconds: float = Field(default=1.0, ge=0.0)
    """Least time between two previews, in seconds."""
    lease_seconds: float = Field(default=30.0, gt=0.0)
    """A worker that has not been heard of for so long has lost its job."""
    heartbeat_seconds: float = Field(default=5.0, gt=0.0)
    """A worker renews its lease this often."""
    tick_seconds: float = Field(default=0.25, gt=0.0, le=0.5)
    """Progress is written and a wish to cancel is read at most this often, in seconds."""
    cancel_grace_seconds: float = Field(default=20.0, gt=0.0)
    """A cancelled job that does not stop gets SIGTERM after so long, and SIGKILL 10 s later."""
    stop_seconds: float = Field(default=20.0, gt=0.0)
    """Longest time a worker may take from SIGTERM to its end."""
    max_crashes: int = Field(default=3, ge=1)
    """A job whose worker crashes this often at the same place fails instead of being tried again."""
    max_kills: int = Field(default=25, ge=1)
    """The same limit for workers that something outside killed (SIGKILL, not for memory) at the same place."""
    max_waiting: int = Field(default=64, ge=1)
    """Most waiting jobs of one owner."""
    max_batch: int = Field(default=32, ge=1)
    """Most jobs of one batch."""
    min_free_bytes: int = Field(default=256 * MIB, ge=0)
    """Jobs wait as `blocked` while the disk has less than this free, beyond what the job itself needs."""
    ballast_bytes: int = Field(default=16 * MIB, ge=0)
    """A file that is given up when the disk is full, so that the history can still say so. 0: none."""
    backups: int = Field(default=3, ge=1)
    """Daily copies of the history that are kept."""
    inputs_days: float = Field(default=30.0, ge=0.0)
    """An image or video that no job and no clip refers to is deleted so many days after it was last used. 0: never."""
    loras_days: float = Field(default=0.0, ge=0.0)
    """The same for LoRAs, from when they were added. 0: never; a shelf is for keeping."""
    allowed_hosts: str = ""
    """Further host names the page answers to, with commas between. Plain addresses, localhost and this machine's own name always do."""
    devices: str = TOGETHER
    """'together': all GPUs for one job; 'each': one job per GPU. Until somebody has chosen on the page or by `sprocket queue devices`."""
    attention: str = "auto"
    """Attention kernel of the transformer, see `engine.speed`: 'auto' takes the fastest exact one this machine has."""
    compile: bool = False
    """Compile the transformer's blocks for jobs long enough that it pays. Needs a GPU and the package triton."""

    refiner: str = "auto"
    """Who refines prompts, see docs/refine.md: 'pocket', 'endpoint', 'local', or 'auto': the pocket refiner for the pocket model, else
    the endpoint where one is named, else the local model where one is named."""
    refiner_url: str = ""
    """Base URL of an OpenAI-compatible chat server, for example http://127.0.0.1:11434/v1."""
    refiner_model: str = ""
    """The model to ask that server for."""
    refiner_key: SecretStr = SecretStr("")
    """Its key. From the environment only; no child process gets it."""
    refiner_vision_model: str = ""
    """A model of that server that can look at pictures: start images are shown to it. '': none is."""
    refiner_seconds: float = Field(default=60.0, gt=0.0, le=600.0)
    """Longest time for one answer, in seconds."""
    refiner_local: str = ""
    """A chat model that transformers runs in a process of its own: a folder, or an id whose files are in the hub's cache."""
    refiner_limit: int = Field(default=4, ge=1, le=64)
    """Texts that are refined at the same time; four times as many may wait."""

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise refused(error, ("refiner_key", "database"),
                          " or an option of the command line; without them the default holds") from error

    @field_validator("attention")
    @classmethod
    def _known_kernel(cls, value: str) -> str:
        try:
            return Speed(attention=value).attention
        except InvalidRequest as error:
            raise ValueError(error.message) from None

    @field_validator("devices")
    @classmethod
    def _known_mode(cls, value: str) -> str:
        if value not in DEVICE_MODES:
            raise ValueError(f"must be one of {', '.join(DEVICE_MODES)}")
        return value

    @field_validator("executor")
    @classmethod
    def _known_executor(cls, value: str) -> str:
        if value not in (HERE, RAY):
            raise ValueError(f"must be {HERE} or {RAY}")
        return value

    @field_validator("refiner")
    @classmethod
    def _known_refiner(cls, value: str) -> str:
        if value not in ("auto", *REFINERS):
            raise ValueError(f"must be one of auto, {', '.join(REFINERS)}")
        return value

    @property
    def speed(self) -> Speed:
        return Speed(attention=self.attention, compile=self.compile)

    @field_validator("data_dir", "models_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        try:
            return Path(os.path.abspath(value.expanduser()))  # noqa: PTH100  (resolve() follows links)
        except RuntimeError:
            raise ValueError("needs a home folder, and this user has none; give a full path") from None

    @field_validator("database")
    @classmethod
    def _postgresql(cls, value: SecretStr) -> SecretStr:
        url = value.get_secret_value().strip()
        if url and not re.fullmatch(r"postgres(ql)?://[^/\s]*/[^/?\s]+(\?\S*)?", url):
            raise ValueError("must be postgresql://user:password@host:port/name, or empty for the SQLite file in the data folder")
        host = url.partition("://")[2].partition("/")[0].rpartition("@")[2]
        if not re.fullmatch(r"(\[[0-9a-fA-F:.%]+\]|[^\[\]:]*)(:[0-9]{0,5})?", host):
            raise ValueError("has a host or a port that is none; it must be postgresql://user:password@host:port/name")
        return SecretStr(re.sub(r"^postgres:", "postgresql:", url))

    @property
    def on_server(self) -> bool:
        """True where queue and history are on a database server, which several hosts may share."""
        return bool(self.database.get_secret_value())

    @property
    def server_lock(self) -> Path:
        """Held by the one server of this data folder; where hosts share the folder, by the one of this host."""
        return self.data_dir / f"server{self._host}.lock"

    @property
    def incoming_dir(self) -> Path:
        """Files from browsers that wait to be looked at, emptied when the server starts; where hosts share the folder, each has its own."""
        return self.data_dir / f"incoming{self._host}"

    @property
    def uploads_dir(self) -> Path:
        """The same of gradio, which serves what is in it."""
        return self.data_dir / f"uploads{self._host}"

    @property
    def _host(self) -> str:
        return f"-{socket.gethostname()}" if self.on_server else ""

    @property
    def db_path(self) -> Path:
        return self.data_dir / "history.db"

    @property
    def media_dir(self) -> Path:
        """Published clips below year-month folders: `.mp4`, `.webp` poster, `.json` sidecar."""
        return self.data_dir / "media"

    @property
    def parts_dir(self) -> Path:
        """Unfinished files; inside `media_dir`, so that publishing stays within one file system."""
        return self.media_dir / ".parts"

    @property
    def jobs_dir(self) -> Path:
        """One folder a job: log, checkpoint, preview."""
        return self.data_dir / "jobs"

    @property
    def inputs_dir(self) -> Path:
        """Images and videos that clips start from, named after their sha256 (`engine.inputs`)."""
        return self.data_dir / "inputs"

    @property
    def loras_dir(self) -> Path:
        """LoRAs, named after their sha256 (`engine.lora`), with a record each."""
        return self.data_dir / "loras"

    @property
    def datasets_dir(self) -> Path:
        """Sets of clips to train on (`app.datasets`), one folder each."""
        return self.data_dir / "datasets"

    @property
    def calibrations_dir(self) -> Path:
        """Factors of MagCache, one small file a model (`engine.cache.magnitude`)."""
        return self.data_dir / "calibrations"

    @property
    def training_dir(self) -> Path:
        """One folder a training run (`training.lora.rundir`)."""
        return self.data_dir / "training"

    @property
    def trash_dir(self) -> Path:
        """Files recovery could not place. Nothing is ever deleted by recovery."""
        return self.data_dir / "trash"

    @property
    def backups_dir(self) -> Path:
        return self.data_dir / "backups"

    @property
    def ballast_path(self) -> Path:
        return self.data_dir / "ballast.bin"

    def job_dir(self, job_id: str) -> Path:
        return self.jobs_dir / job_id

    def make_folders(self) -> None:
        """Creates the data directory, readable by its owner only. Raises InvalidRequest (no folder can be there), OSError."""
        try:
            self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            for folder in (self.media_dir, self.parts_dir, self.jobs_dir, self.inputs_dir, self.trash_dir, self.backups_dir):
                folder.mkdir(mode=0o700, exist_ok=True)
        except (FileExistsError, NotADirectoryError, FileNotFoundError) as error:
            raise InvalidRequest("data_dir", f"is {str(self.data_dir)!r}; no folder can be made there ({error.strerror}: "
                                             f"{error.filename}). Choose another with --data-dir or SPROCKET_DATA_DIR.") from error

    def to_env(self) -> dict[str, str]:
        """These settings as environment variables, for a child process. A key is emptied: no child has a use for it."""
        shown = self.model_dump() | {"database": self.database.get_secret_value()}
        return {f"SPROCKET_{name.upper()}": "" if isinstance(value, SecretStr) else str(value)
                for name, value in shown.items() if value is not None}
