"""The address of a page: what the browser's address bar says <-> what is shown. The one source of a page's state, so that
reload, back, a bookmark and a second tab all show the same.

    /?view=create&job=ID        /?view=queue        /?view=gallery&words=red&model=pocket&favourites=1&sheet=2
    /?view=gallery&clip=ID      /?view=gallery&trash=1      /?view=gallery&public=1      /?view=models
    /?view=train                /?view=train&set=ID&step=captions&show=problems
    /?view=train&run=all        /?view=train&run=ID     /?view=train&run=new&set=ID&origin=ID

Everything in an address is untrusted: unknown views are Create, bad numbers are 1, ids go to the studio, which knows whose
they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode, urlsplit

from app.history.records import ClipQuery

VIEWS = ("create", "queue", "gallery", "models", "train")
MAX_ADDRESS = 4000
MAX_PAGE = 1_000_000
FLAGS = ("favourites", "trash", "public")
TEXTS = ("words", "project", "model", "clip", "job", "set", "step", "shapes", "show", "run", "origin")


@dataclass(frozen=True, slots=True)
class Address:
    """One place in the studio."""

    view: str = "create"
    job: str = ""
    clip: str = ""
    set: str = ""
    """Of clips to train on."""
    step: str = ""
    """Of training: 'dataset' or 'captions'; '' is the first."""
    shapes: str = ""
    """Which buckets are shown (`training.data.buckets.SHAPES`)."""
    show: str = ""
    """Which clips of a set."""
    words: str = ""
    project: str = ""
    model: str = ""
    favourites: bool = False
    trash: bool = False
    public: bool = False
    """Everybody's published clips, not one's own."""
    run: str = ""
    """A training run; 'new' for the form."""
    origin: str = ""
    """The run whose settings a new one begins with."""
    sheet: int = 1
    """Page of the grid, from 1. Not called `page`: gradio takes that word of an address for itself."""

    @classmethod
    def parse(cls, text: object) -> Address:
        """From a relative link or a query string; never raises."""
        if not isinstance(text, str) or len(text) > MAX_ADDRESS:
            return cls()
        try:
            query = urlsplit(text).query if "?" in text else text
            values = dict(parse_qsl(query, max_num_fields=40))
        except ValueError:
            return cls()
        return cls.of(values)

    @classmethod
    def of(cls, values: dict[str, str]) -> Address:
        """From query parameters by name; never raises."""
        view = values.get("view", "create")
        texts = {name: plain(str(values.get(name, ""))[:200]) for name in TEXTS}
        flags = {name: values.get(name) == "1" for name in FLAGS}
        sheet = values.get("sheet", "1")
        number = int(sheet) if sheet.isascii() and sheet.isdigit() and len(sheet) < 8 else 1
        return cls(view=view if view in VIEWS else "create", sheet=max(1, min(number, MAX_PAGE)), **texts, **flags)  # type: ignore[arg-type]

    def href(self, **changes: object) -> str:
        """A relative link to this place, with `changes`; what is at its default is left out."""
        values = {"view": self.view} | {name: getattr(self, name) for name in (*TEXTS, *FLAGS)} | {"sheet": self.sheet} | changes
        kept = {
            name: "1" if value is True else str(value) for name, value in values.items() if value and not (name == "sheet" and value == 1)
        }
        return "/?" + urlencode(kept)

    def query(self) -> ClipQuery:
        """What the gallery asks the studio for."""
        return ClipQuery(
            words=self.words,
            project_id=self.project or None,
            model=self.model or None,
            favourites_only=self.favourites,
            trashed=self.trash,
            page=self.sheet,
        )


def plain(text: str) -> str:
    """What every link and database can hold: '?' for half a character (a lone surrogate), nothing for NUL."""
    return text.encode("utf-8", "replace").decode().replace("\0", "")
