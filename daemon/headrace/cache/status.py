"""The `Cache-Status` header (RFC 9211): whether an answer was kept, and if not, why it had to be asked for."""

from __future__ import annotations

from headrace.model import Call

_NAME = "headrace"


def hit(fingerprint: str, ttl_s: float, detail: str = "") -> str:
    """Return the status of a kept answer; a negative *ttl_s* says for how long it has been stale."""
    extra = f"; detail={detail}" if detail else ""
    return f'{_NAME}; hit; ttl={int(ttl_s)}; key="{fingerprint}"{extra}'


def forwarded(call: Call, *, is_shared: bool, is_stored: bool, detail: str = "") -> str:
    """Return the status of an answer that was asked of upstream, now or by the flight that this call joined."""
    parts = [_NAME, f"fwd={_why(call)}"]
    if is_shared:
        parts.append("collapsed")
    if is_stored:
        parts.append("stored")
    parts.append(f'key="{call.fingerprint}"')
    if detail:
        parts.append(f"detail={detail}")
    return "; ".join(parts)


def _why(call: Call) -> str:
    if call.cache.no_store or call.no_keep:
        return "bypass"
    return "request" if call.cache.no_cache else "miss"
