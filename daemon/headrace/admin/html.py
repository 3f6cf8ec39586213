"""
HTML by functions, so that nothing that is shown can be taken for markup: every text is escaped, where it becomes part of a tag.

Only `tag` makes `Markup`, and only markup goes in as it is. A text that a caller made up (its name, a model) is no markup.
"""

from __future__ import annotations

import html
from collections.abc import Iterable


class Markup(str):
    """HTML that is well-formed, and safe."""

    __slots__ = ()


Child = str | None

_EMPTY = frozenset({"meta", "link", "input", "br"})


def tag(name: str, /, *children: Child, **attributes: str | float | bool | None) -> Markup:
    """
    Return an element.

    Attributes are named as in Python: `class_`, `data_act`; False and None leave one out, True is the bare name.
    """
    said = "".join(_attribute(key, value) for key, value in attributes.items() if value is not None and value is not False)
    return Markup(f"<{name}{said}>" if name in _EMPTY else f"<{name}{said}>{join(*children)}</{name}>")


def join(*children: Child) -> Markup:
    """Return one after the other; texts are escaped."""
    return Markup("".join(escaped(child) for child in children if child is not None))


def joined(children: Iterable[Child]) -> Markup:
    """Return one after the other, of many."""
    return join(*children)


def escaped(text: str) -> str:
    """Return a text as HTML has it, markup as it is."""
    return text if isinstance(text, Markup) else html.escape(_clean(text), quote=True)


def _attribute(name: str, value: str | float | bool) -> str:
    name = (
        name.removesuffix("_")
        .replace("_", "-")
        .replace("viewbox", "viewBox")
        .replace("preserveaspectratio", "preserveAspectRatio")
    )
    return f" {name}" if value is True else f' {name}="{html.escape(_clean(str(value)), quote=True)}"'


def _clean(text: str) -> str:
    # Half a character, or what no page may have in it, must not break the page.
    return "".join(each if each.isprintable() or each == " " else "\ufffd" for each in text) if not text.isprintable() else text
