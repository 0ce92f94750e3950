"""Who is signed in, in the bar on top, and the way out."""

from __future__ import annotations

from app.sharing.visitor import Visitor
from app.ui.html.common import esc, short


def account_html(visitor: Visitor | None) -> str:
    """'' where nobody signs in."""
    if visitor is None or not visitor.name:
        return ""
    initial = esc(visitor.name[:1].upper())
    return (
        f'<details class="menu account"><summary title="{esc(visitor.name)}"><span class="initial" aria-hidden="true">{initial}</span>'
        f'<span class="sr">Signed in as {esc(visitor.name)}</span></summary><div class="menu-box">'
        f'<h2>Signed in</h2><p class="who">{esc(short(visitor.name, 40))} <span class="quiet">{esc(visitor.role.word)}</span></p>'
        '<form method="post" action="/signout"><button class="btn small" type="submit">Sign out</button></form></div></details>'
    )
