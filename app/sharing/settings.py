"""Every knob of a shared studio, documented where it is declared. Set by `SPROCKET_` + the field's name in capitals."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.settings import refused
from app.sharing.visitor import Role

GIB = 1 << 30


class SharingSettings(BaseSettings):
    """How a studio is shared. Frozen. Raises InvalidRequest for a value that is none, wherever it came from."""

    model_config = SettingsConfigDict(env_prefix="SPROCKET_", frozen=True, extra="ignore", validate_default=True)

    users_file: Path | None = None
    """People and their hashed passwords; `users.json` in the data folder unless said."""
    public: bool = False
    """Lets the page be reached from other machines without anybody signing in. Everyone is then admin of everything."""
    proxy_header: str = ""
    """Header in which a reverse proxy names the person it has signed in, e.g. X-Forwarded-User; '' for none."""
    trusted_proxies: str = "127.0.0.1,::1"
    """Addresses or networks (commas) from which that header, X-Forwarded-For and X-Forwarded-Proto are believed."""
    proxy_role: str = "maker"
    """Role of somebody the proxy names and the users file does not: viewer, maker or admin."""
    session_idle_seconds: float = Field(default=12 * 3600.0, gt=0.0)
    """A session nobody uses for so long is over."""
    session_seconds: float = Field(default=7 * 86400.0, gt=0.0)
    """A session is over after so long, used or not."""
    queued_each: int = Field(default=16, ge=1)
    """Most jobs of one person that run or wait."""
    queued_anonymous: int = Field(default=1, ge=0)
    """The same for somebody on a Space who has not signed in; 0: signing in is needed to make anything."""
    anonymous_hours: float = Field(default=24.0, gt=0.0)
    """What somebody made who had not signed in is deleted after so long."""
    open_gallery: bool = False
    """Lets people who have not signed in look at the clips that others have published."""
    queue_size: int = Field(default=64, ge=1)
    """Most jobs of all people that run or wait."""
    submits_a_minute: int = Field(default=20, ge=1)
    """Most times one person may press Generate in a minute; a batch is one."""
    disk_each: int = Field(default=20 * GIB, ge=0)
    """Most bytes of clips, images and videos of one person; 0: no limit."""
    prompt_chars: int = Field(default=2000, ge=1)
    """Longest prompt, in characters."""
    metrics_token: str = ""
    """`/metrics` answers to `Authorization: Bearer` with this, and otherwise to admins and to loopback only."""

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise refused(error, ("metrics_token",)) from error

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: str) -> str:
        for each in filter(None, (part.strip() for part in value.split(","))):
            try:
                ipaddress.ip_network(each, strict=False)
            except ValueError:
                raise ValueError(f"must be addresses or networks with commas between, and {each[:40]!r} is none") from None
        return value

    @field_validator("proxy_role")
    @classmethod
    def _role(cls, value: str) -> str:
        if value.upper() not in Role.__members__:
            raise ValueError("must be viewer, maker or admin")
        return value.lower()

    @field_validator("proxy_header")
    @classmethod
    def _header(cls, value: str) -> str:
        if value and not value.replace("-", "").isalnum():
            raise ValueError("must be the name of a header, letters, digits and dashes")
        return value.lower()

    def trusts(self, address: str) -> bool:
        """Is `address` (of the other end of the connection) one of the proxies?"""
        try:
            there = ipaddress.ip_address(address)
        except ValueError:
            return False
        nets = (ipaddress.ip_network(part.strip(), strict=False) for part in self.trusted_proxies.split(",") if part.strip())
        return any(there.version == net.version and there in net for net in nets)

    def users_path(self, data_dir: Path) -> Path:
        return self.users_file or data_dir / "users.json"
