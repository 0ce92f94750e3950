"""Who people are on a Space: their account on the platform where they have signed in, else this browser alone.

The platform's sign-in is there only where `hf_oauth: true` made it (`OAUTH_CLIENT_ID`). Off a Space gradio pretends that
everybody is the operator; so nothing here is used unless both variables are set.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.sharing.access import Access
from app.sharing.cookies import cookies
from app.sharing.settings import SharingSettings
from app.sharing.visitor import ANONYMOUS, Role, Visitor

COOKIE = "sprocket_browser"
KEY_BYTES = 32


def on_space(environment: Mapping[str, str] | None = None) -> bool:
    """Does this run on a Space?"""
    return bool((os.environ if environment is None else environment).get("SPACE_ID"))


def has_oauth(environment: Mapping[str, str] | None = None) -> bool:
    """Can people sign in with the platform here?"""
    said = os.environ if environment is None else environment
    return on_space(said) and bool(said.get("OAUTH_CLIENT_ID")) and bool(said.get("OAUTH_CLIENT_SECRET"))


class SpaceAccess(Access):
    """The doorkeeper of a Space. `key`: signs the cookies of browsers; they last as long as it does."""

    own_paths = ("/login/huggingface", "/login/callback", "/logout")

    def __init__(self, sharing: SharingSettings, data_dir: Path, *, key: bytes | None = None, admins: frozenset[str] = frozenset()) -> None:
        super().__init__(sharing, data_dir)
        self._key = key or secrets.token_bytes(KEY_BYTES)
        self._admins = admins

    def visitor_of(self, scope: Mapping[str, Any]) -> Visitor | None:
        session = scope.get("session")
        info = session.get("oauth_info") if isinstance(session, Mapping) else None
        person = info.get("userinfo") if isinstance(info, Mapping) else None
        if isinstance(person, Mapping) and isinstance(person.get("sub"), str) and person["sub"]:
            name = str(person.get("preferred_username") or person["sub"])[:64]
            return Visitor(f"hf:{person['sub']}", name, Role.ADMIN if name in self._admins else Role.MAKER)
        return self._browser(scope["headers"])

    def welcome(self) -> tuple[Visitor, bytes] | None:
        browser = secrets.token_hex(16)
        cookie = f"{COOKIE}={browser}.{self._signed(browser)}; Path=/; HttpOnly; Secure; SameSite=None; Partitioned; Max-Age=2592000"
        return Visitor(ANONYMOUS + browser, "", Role.MAKER), cookie.encode()

    def _browser(self, headers: Any) -> Visitor | None:
        for value in cookies(headers, COOKIE):
            browser, _, signature = value.partition(".")
            if len(browser) == 32 and hmac.compare_digest(signature.encode(), self._signed(browser).encode()):
                return Visitor(ANONYMOUS + browser, "", Role.MAKER)
        return None

    def _signed(self, browser: str) -> str:
        return hmac.new(self._key, browser.encode("utf-8", "replace"), hashlib.sha256).hexdigest()
