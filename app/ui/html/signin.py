"""The page where people sign in. No script; it stands alone, so that a stranger gets nothing of the studio but this."""

from __future__ import annotations

from app.ui.html.common import esc


def signin_html(*, there: str = "/", said: str = "", name: str = "", gallery: bool = False) -> str:
    """The whole document. `there`: where to go afterwards; `said`: why it did not work; `gallery`: there is
    something to look at without."""
    told = f'<p class="banner bad" role="alert" id="why">{esc(said)}</p>' if said else ""
    described = ' aria-describedby="why"' if said else ""
    look = '<p class="quiet"><a href="/public">Look at what has been published</a></p>' if gallery else ""
    first, second = ("", " autofocus") if name else (" autofocus", "")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        '<title>Sign in · Sprocket</title><link rel="icon" href="/studio/logo.svg" type="image/svg+xml">'
        f'<link rel="stylesheet" href="/studio/style.css"><style>{STYLE}</style></head><body class="signin">'
        '<main><h1><img src="/studio/logo.svg" alt="" width="32" height="32">Sprocket</h1>'
        f'{told}<form method="post" action="/signin"><input type="hidden" name="next" value="{esc(there)}">'
        f'<label>Name<input name="name" value="{esc(name)}" autocomplete="username" autocapitalize="none" spellcheck="false" required'
        f' maxlength="64"{first}{described}></label>'
        f'<label>Password<input name="password" type="password" autocomplete="current-password" required maxlength="200"{second}></label>'
        '<button type="submit">Sign in</button></form>'
        f'<p class="quiet">Accounts are made by whoever runs this studio.</p>{look}</main></body></html>'
    )


STYLE = """
@media (prefers-color-scheme:dark){body.signin{color-scheme:dark;--sp-link:#f8be74;--sp-bad-soft:#3a1d18;
--sp-bg:#14110e;--sp-surface:#1c1815;--sp-field:#171310;--sp-line:#332b23;
--sp-edge:#4c4136;--sp-ink:#f3ebe0;--sp-muted:#b9ab9b;--sp-accent:#f5aa45;--sp-on-accent:#1d1204;--sp-bad:#ff8d7c}}
body.signin{margin:0;min-height:100vh;display:grid;place-items:center;background:var(--sp-bg,#f6f2ea);color:var(--sp-ink,#241c14);
font:16px/1.5 ui-sans-serif,system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue","Liberation Sans",sans-serif}
.signin main{width:min(22rem,calc(100vw - 2rem));box-sizing:border-box;padding:1.75rem;
border:1px solid var(--sp-line,#ddd3c3);border-radius:14px;background:var(--sp-surface,#fffdf9)}
.signin h1{display:flex;gap:.6rem;align-items:center;margin:0 0 1.1rem;font-size:1.4rem}
.signin form{display:grid;gap:.9rem}
.signin label{display:grid;gap:.3rem;font-weight:600;font-size:.95rem}
.signin input:not([type=hidden]){font:inherit;font-weight:400;padding:.6rem .7rem;border:1px solid var(--sp-edge,#8d7f6c);border-radius:8px;
background:var(--sp-field,#fff);color:inherit;width:100%;box-sizing:border-box}
.signin button{font:inherit;font-weight:600;padding:.7rem;border:0;border-radius:8px;background:var(--sp-accent,#a6431a);
color:var(--sp-on-accent,#fff);cursor:pointer}
.signin :focus-visible{outline:3px solid var(--sp-accent,#a6431a);outline-offset:2px}
.signin .banner{margin:0 0 1rem;padding:.6rem .75rem;border-radius:8px;border:1px solid var(--sp-bad,#b3261e);color:var(--sp-bad,#b3261e)}
.signin a{color:var(--sp-link,#93430a)}
.signin .quiet{margin:1rem 0 0;font-size:.85rem;color:var(--sp-muted,#6b5f50)}
"""
