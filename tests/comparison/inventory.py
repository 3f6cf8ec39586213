"""Which methods the Python SDK has, and what is done with each: nothing is left out unseen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic

from comparison.rows import LEFT_OUT, ROWS, arguments, asked_anyhow, resolve


def _methods(of: Any, prefix: str) -> Iterator[str]:
    for name in sorted(dir(type(of))):
        if name.startswith(("_", "with_")):
            continue
        value = getattr(of, name)
        if _is_resource(value):
            yield from _methods(value, f"{prefix}{name}.")
        elif callable(value):
            yield f"{prefix}{name}"


def _of(root: Any) -> Iterator[str]:
    for name in sorted(dir(type(root))):
        if not name.startswith("_") and name != "beta" and _is_resource(value := getattr(root, name)):
            yield from _methods(value, f"{name}.")


def _is_resource(value: object) -> bool:
    return type(value).__module__.startswith("anthropic.resources")


def roots(client: Any) -> dict[str, Any]:
    """Return the two roots of an SDK by the prefix of their methods."""
    return {"": client, "beta.": client.beta}


with anthropic.Anthropic(api_key="unused") as _client:
    _roots = roots(_client)
    # By prefix: the dotted names of all public methods of the resources.
    METHODS = {prefix: tuple(_of(root)) for prefix, root in _roots.items()}

_by_row = {row.method for row in ROWS}

# What is done with them: compared by a row; or carried, though the simulator does not know it, all of one resource together.
COMPARED = [(prefix, row) for prefix in METHODS for row in ROWS if row.method in METHODS[prefix]]
CARRIED: dict[tuple[str, str], dict[str, Any]] = {}
for _prefix, _names in METHODS.items():
    for _name in _names:
        if _name not in _by_row and _name not in LEFT_OUT:
            _made_up = arguments(resolve(_roots[_prefix], _name))
            CARRIED.setdefault((_prefix, _name.partition(".")[0]), {})[_name] = _made_up


def carry(root: Any, made_up: dict[str, Any]) -> dict[str, Any]:
    """Call methods with the arguments that were made up for them."""
    return {name: asked_anyhow(root, name, arguments) for name, arguments in made_up.items()}
