"""Which entries a purge means."""

from __future__ import annotations

import msgspec


class Selector(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    Which entries a purge means: those that match everything that is given; `all` must be asked for by name.

    Args:
        scope: a caller's name, or "" for the shared scope; a scope of the form "<caller>#..." belongs to the caller too.
    """

    fingerprint: str | None = None
    scope: str | None = None
    model: str | None = None
    all: bool = False

    def __post_init__(self) -> None:
        given = (self.fingerprint, self.scope, self.model)
        if self.all != all(part is None for part in given):
            raise ValueError("a purge needs a key, a caller or a model, or else all of them, but not both")

    def matches(self, fingerprint: str, scope: str, model: str) -> bool:
        return (
            (self.fingerprint is None or self.fingerprint == fingerprint)
            and (self.scope is None or self.scope == scope or scope.startswith(f"{self.scope}#"))
            and (self.model is None or self.model == model)
        )
