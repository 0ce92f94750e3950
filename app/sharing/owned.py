"""The studio as one visitor may use it: the same use-cases, each with the owner of whoever asks and with the role it needs.

Handlers go on calling `studio.cancel(job, owner=OWNER)`. What they say of the owner is replaced here, where no handler can forget
it, and a use-case nobody has given a role is for nobody but admins. Without a visitor nothing that belongs to an owner is reached.
"""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections.abc import Callable, Mapping
from typing import Any

from app.checked import checked_key
from app.history.usage import unfinished, usage_of
from app.sharing.belongings import Belongings, as_mapping, check_models
from app.sharing.gallery import OwnedGallery
from app.sharing.parts import PARTS, OwnedPart
from app.sharing.quotas import Pace, Standing, check_bytes, check_jobs, check_prompt
from app.sharing.roles import allowed, has_owner
from app.sharing.settings import SharingSettings
from app.sharing.visitor import ANONYMOUS, Role, Visitor
from app.studio import Studio

VIEWER, MAKER, ADMIN = Role.VIEWER, Role.MAKER, Role.ADMIN
NEVER = None
ROLES: Mapping[str, Role | None] = {
    "submit": MAKER, "submit_batch": MAKER, "batch": VIEWER, "cancel_batch": MAKER, "run_all_here": NEVER, "run_here": NEVER,
    "marks": NEVER,
    "job": VIEWER, "jobs": VIEWER, "job_events": VIEWER, "current_job": VIEWER, "cancel": MAKER, "retry": MAKER, "duplicate": MAKER,
    "move": MAKER, "key_frames": VIEWER, "edit_key_frame": MAKER, "go_on": MAKER,
    "pause": MAKER, "resume": MAKER, "take_back": MAKER, "preview_path": VIEWER, "log_text": MAKER,
    "add_input": MAKER, "add_frame": MAKER, "input_facts": VIEWER, "input_preview": VIEWER,
    "clips": VIEWER, "clip": VIEWER, "clip_path": VIEWER, "poster_path": VIEWER, "lineage": VIEWER, "rename": MAKER,
    "set_favourite": MAKER, "trash": MAKER, "untrash": MAKER, "move_clip": MAKER, "clip_request": VIEWER,
    "request_from_file": MAKER, "missing_loras": MAKER, "stand_in": MAKER,
    "projects": VIEWER, "create_project": MAKER, "rename_project": MAKER,
    "models": VIEWER, "spec": VIEWER, "forecast": VIEWER, "in_words": VIEWER, "alternatives": VIEWER, "status": VIEWER, "hardware": VIEWER,
    "devices": VIEWER, "set_devices": ADMIN,
    "dismiss_recovery_message": ADMIN, "close": NEVER,
}
"""Use-case -> least role; NEVER: not from a page."""
HUB_ROLES: Mapping[str, Role | None] = dict.fromkeys(("cards", "token", "folder", "offline", "free_bytes", "download"), VIEWER)
LORA_ROLES: Mapping[str, Role | None] = {**dict.fromkeys(("cards", "card", "find", "used", "missing", "folder"), VIEWER), "add": MAKER}
ADDING = {"submit": 1, "submit_batch": None, "duplicate": 1, "retry": 1}
"""Use-cases that put jobs into the queue, and how many; None: as many as the first argument has."""
WITHOUT_ANYBODY = frozenset({"models", "spec", "status"})
"""What a page needs before anybody has opened it."""


class OwnedStudio:
    """Stands before a `Studio`. `who()`: the visitor of the request that is being answered."""

    def __init__(self, studio: Studio, who: Callable[[], Visitor | None], limits: SharingSettings) -> None:
        self._studio, self._who, self._limits = studio, who, limits
        self._belongings = Belongings(studio.settings)
        self._pace, self._refining_pace, self._sending_pace = (Pace(limits.submits_a_minute) for _ in range(3))
        self._adding = threading.Lock()
        self.settings = studio.settings
        self.inline: Any = None
        """See `Access.inline`."""

    @property
    def visitor(self) -> Visitor | None:
        return self._who()

    @property
    def hub(self) -> Gated:
        return Gated(self._studio.hub, HUB_ROLES, self._who, "Models")

    @property
    def loras(self) -> Gated:
        return Gated(self._studio.loras, LORA_ROLES, self._who, "LoRAs")

    @property
    def published(self) -> OwnedGallery:
        return OwnedGallery(self._studio.published, self._who, self._limits)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "store":
            raise AttributeError(name)
        found = getattr(self._studio, name)
        if name in PARTS:
            return OwnedPart(found, name, lambda need, what: allowed(self._who(), need, what), self._check_words, self._add,
                             self._check_refining, self._who)
        if not callable(found):
            raise AttributeError(name)
        return functools.partial(self._call, name, found)

    def may_send(self, size: int, waiting: Callable[[str], int]) -> str:
        """May the visitor send a file of `size` bytes, beside what of theirs is `waiting` to be looked at? Their owner. Raises NotAllowed.

        Admins send the files of a dataset, one after the other as fast as they come; only the disk bounds them.
        """
        visitor = allowed(self._who(), MAKER, "sending files")
        if visitor.role < ADMIN:
            self._sending_pace.step(visitor.owner)
            check_bytes(self._limits, self._held(visitor.owner) + waiting(visitor.owner), size)
        return visitor.owner

    def _call(self, name: str, use_case: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        visitor = self._who()
        if name == "spec" and (visitor is None or not _may_name_folders(visitor)):
            check_models({"model": args[0] if args else kwargs.get("model")})
        if visitor is None and name in WITHOUT_ANYBODY:
            return use_case(*args, **kwargs)
        visitor = allowed(visitor, ROLES.get(name, ADMIN), f"{name.replace('_', ' ')}")
        if has_owner(use_case):
            kwargs["owner"] = visitor.owner
        self._check_words(visitor, args, kwargs)
        if name in ADDING:
            return self._add(visitor, name, args, kwargs.get("idempotency_key"), lambda: use_case(*args, **kwargs))
        if name in ("add_input", "add_frame"):
            check_bytes(self._limits, self._held(visitor.owner), 0)
        done = use_case(*args, **kwargs)
        if name in ("add_input", "add_frame"):
            self._belongings.add(visitor.owner, str(done))
        if name == "status" and visitor.role < ADMIN:
            return dataclasses.replace(done, recovery_message=None)
        return done

    def _check_words(self, visitor: Visitor, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Inputs named anywhere are the visitor's own, models are listed ones; prompts are not too long. The command line's own owner has
        everything here."""
        for value in (*args, *(value for key, value in kwargs.items() if key != "owner")):
            each = [as_mapping(request) for request in value] if isinstance(value, (list, tuple)) else as_mapping(value)
            for request in each if isinstance(each, list) else [each]:
                if isinstance(request, Mapping):
                    for field in ("prompt", "negative"):
                        check_prompt(self._limits, field, request.get(field))
            if visitor.owner != "local":
                self._belongings.check(visitor.owner, each)
            if not _may_name_folders(visitor):
                check_models(each)
        if not _may_name_folders(visitor):
            check_models(kwargs)

    def _add(self, visitor: Visitor, name: str, args: tuple[Any, ...], key: object, act: Callable[[], Any]) -> Any:
        """`act` within the quotas: one look at the queue and one job, not two looks and two jobs. A key seen before adds nothing."""
        with self._adding:
            known = checked_key(key)
            if known is None or not self._studio.store.jobs.has_key(known, owner=visitor.owner):
                self._check_adding(visitor, name, args)
            return act()

    def _check_adding(self, visitor: Visitor, name: str, args: tuple[Any, ...]) -> None:
        new = ADDING.get(name, 1) or (len(args[0]) if args and isinstance(args[0], (list, tuple)) else 1)
        self._pace.step(visitor.owner)
        store = self._studio.store
        own = usage_of(store, visitor.owner)
        check_jobs(self._limits, Standing(own.waiting + own.running, unfinished(store), self._held(visitor.owner)), new,
                   anonymous=visitor.owner.startswith(ANONYMOUS))

    def _check_refining(self, visitor: Visitor, text: object) -> None:
        check_prompt(self._limits, "text", text)
        self._refining_pace.step(visitor.owner)

    def _held(self, owner: str) -> int:
        return usage_of(self._studio.store, owner).clip_bytes + self._belongings.size(owner)


def _may_name_folders(visitor: Visitor) -> bool:
    """Of this machine, where models lie."""
    return visitor.owner == "local" or visitor.role >= ADMIN


class Gated:
    """Something all share: whoever has the role may use that part of it, the rest is for admins."""

    def __init__(self, thing: Any, roles: Mapping[str, Role | None], who: Callable[[], Visitor | None], word: str) -> None:
        self._thing, self._roles, self._who, self._word = thing, roles, who, word

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        need = self._roles.get(name, ADMIN)
        if need is not VIEWER or self._who() is not None:
            allowed(self._who(), need, f"{self._word}: {name.replace('_', ' ')}")
        return getattr(self._thing, name)
