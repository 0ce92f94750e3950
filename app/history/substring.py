"""Whether one text occurs in another, literally: SQLite calls it instr, PostgreSQL strpos."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Integer
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement


class _Position(FunctionElement[int]):
    """(text, part): where `part` begins in `text`, from 1; 0 where it does not occur."""

    name = "instr"
    type = Integer()
    inherit_cache = True


@compiles(_Position)
def _instr(element: _Position, compiler: Any, **options: Any) -> str:
    return f"instr({compiler.process(element.clauses, **options)})"


@compiles(_Position, "postgresql")
def _strpos(element: _Position, compiler: Any, **options: Any) -> str:
    return f"strpos({compiler.process(element.clauses, **options)})"


def holds(text: ColumnElement[str], part: str) -> ColumnElement[bool]:
    """True where `part` occurs in `text`; % and _ are just characters."""
    return _Position(text, part) > 0


def words_of(said: str) -> list[str]:
    """The words of a search, as the columns that are searched spell them. `casefold` knows more letters than SQLite's lower()."""
    return said.encode("utf-8", "replace").decode().replace("\0", " ").casefold().split()[:32]
