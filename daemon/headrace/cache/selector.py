"""Which entries a purge means."""

from __future__ import annotations

import msgspec


class Selector(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    Which entries a purge means: those that match everything that is given; `all` must be asked for by name.

    Args:
        scope: a caller's name, or "" for the shared scope; a scope of the form "<caller>#..." belongs to the caller too.
        before: a moment (Unix seconds): answers that upstream was asked for later are not meant. None means all.
    """

    fingerprint: str | None = None
    scope: str | None = None
    model: str | None = None
    all: bool = False
    before: float | None = None

    def __post_init__(self) -> None:
        given = (self.fingerprint, self.scope, self.model)
        if self.all != all(part is None for part in given):
            raise ValueError("a purge needs a key, a caller or a model, or else all of them, but not both")

    @property
    def is_everything(self) -> bool:
        """Whether nothing at all is spared."""
        return self.all and self.before is None

    def until(self, moment: float) -> Selector:
        """Return the same for answers that were asked for up to *moment*."""
        return msgspec.structs.replace(self, before=moment)

    def matches(self, fingerprint: str, scope: str, model: str, asked: float) -> bool:
        """Whether an entry is meant; *asked* is when upstream was asked for its answer."""
        return (
            (self.fingerprint is None or self.fingerprint == fingerprint)
            and (self.scope is None or self.scope == scope or scope.startswith(f"{self.scope}#"))
            and (self.model is None or self.model == model)
            and (self.before is None or asked <= self.before)
        )
