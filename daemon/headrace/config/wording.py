"""What messages say of a kind of value and of a value: what would be right, and what there is, unless it may be a secret."""

from __future__ import annotations

import json
import re
from enum import Enum
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec

from headrace.budget.limits import Limit
from headrace.config.kinds import OptionalFile, Secret, SecretFile, Url, hide_password
from headrace.config.tables import spelling_of

# What looks like a key, or like a password in something that is no URL.
_KEY = re.compile(r"\bsk-|\bhr_[0-9a-f]|password|:(?!//)(?!\*\*\*@).*@", re.IGNORECASE)
_LONGEST = 100


def may_hold_secret(kind: Any, value: Any) -> bool:
    """Whether *value*, which is wrong for this kind, is not to be shown: what stands for a key, a URL or a whole table."""
    if Url in get_args(kind):
        return not isinstance(value, str) or not re.search(r"[:.]", value) or any(mark in value for mark in "@?\n")
    if kind in (SecretFile, OptionalFile):  # the key itself, put where the file that holds it is to be named
        return not isinstance(value, str) or not value.startswith("/")
    is_table = get_origin(kind) is dict or kind is Limit or (isinstance(kind, type) and issubclass(kind, msgspec.Struct))
    is_list_of_tables = get_origin(kind) is tuple and get_args(kind)[0] is Limit
    return is_table or is_list_of_tables or Secret in get_args(kind)


def looks_secret(text: str) -> bool:
    """Whether a text looks like a key or a password."""
    return bool(_KEY.search(text))


def is_text(kind: Any) -> bool:
    """Whether values of this kind are texts in TOML, so that the environment need not quote them."""
    is_word = get_origin(kind) is Literal or (isinstance(kind, type) and issubclass(kind, str))
    spelling = spelling_of(kind)
    return is_word or (spelling is not None and spelling.is_text)


def right(kind: Any) -> str:
    """Return what would be right: "must be ..."."""
    if spelling := spelling_of(kind):
        return spelling.right
    if get_origin(kind) is Annotated:
        least = [extra.ge for extra in kind.__metadata__ if isinstance(extra, msgspec.Meta)]
        return f"a whole number, at least {least[0]}"
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(shown, get_args(kind)))}"
    if isinstance(kind, type) and issubclass(kind, Enum):
        return f"one of {', '.join(shown(member.value) for member in kind)}"
    if NoneType in get_args(kind):
        return "a whole number"
    if kind is Limit:
        return "a table begun with [[limit]]"
    return {bool: "true or false", str: "text in quotes"}.get(kind, "something else")


def shown(value: Any) -> str:
    """Return the value for a message: cut short, without passwords and keys."""
    try:
        text = json.dumps(hide_password(value) if isinstance(value, str) else value, ensure_ascii=False, default=str)
    except (RecursionError, TypeError):  # too deep; or a name that is none of JSON's
        return "(not shown)"
    text = text.encode(errors="backslashreplace").decode()
    return "(not shown)" if looks_secret(text) else text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
