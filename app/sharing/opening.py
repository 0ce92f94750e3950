"""Whether a studio asks people to sign in, decided once, when it starts."""

from __future__ import annotations

import contextlib
import ipaddress
from pathlib import Path

from app.sharing.access import Access
from app.sharing.settings import SharingSettings
from engine.errors import InvalidRequest


def access_for(sharing: SharingSettings, data_dir: Path, *, reachable: bool) -> Access | None:
    """The doorkeeper; None where nobody has to sign in. `reachable`: from other machines.

    Raises InvalidRequest where others could come in and nobody could sign in.
    """
    access = Access(sharing, data_dir)
    if sharing.proxy_header or access.users.all():
        return access
    if reachable and not sharing.public:
        raise InvalidRequest("host", "lets other machines in, and nobody can sign in yet. Add somebody with `sprocket users add NAME "
                                     "--role admin`, or set SPROCKET_PROXY_HEADER behind a proxy that signs people in; "
                                     "--i-know-this-is-public leaves it open to everybody.")
    return None


def is_loopback(host: str) -> bool:
    """Can only this machine reach a server that listens there?"""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"
