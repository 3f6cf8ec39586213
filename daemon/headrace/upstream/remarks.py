"""
What upstream says about an answer beside it: the headers that are kept with it, and given to everyone who is given the answer.

All but those that are not true of a copy, or not upstream's to say to our callers. What is spelled anew here has other lengths
and encodings; dates and caching directives are of the one exchange; limits are ours; cookies are one caller's; and what a
browser or a pool does about an origin (CORS, alternative services, ...) is for the origin that the caller sees, which is us.
"""

from __future__ import annotations

from headrace.model import Headers

ONE_HOP = frozenset({
    "connection", "keep-alive", "proxy-authenticate", "proxy-authentication-info", "proxy-authorization", "proxy-connection",
    "te", "trailer", "transfer-encoding", "upgrade",
})  # fmt: skip
_NOT_OF_A_COPY = ONE_HOP | {
    "accept-ranges", "age", "cache-control", "cache-status", "cdn-cache-control", "cf-cache-status", "content-digest",
    "content-disposition", "content-encoding", "content-length", "content-md5", "content-range", "content-type", "date",
    "digest", "etag", "expires", "last-modified", "pragma", "repr-digest", "retry-after", "retry-after-ms", "server-timing",
    "vary", "warning", "x-should-retry",
}  # fmt: skip
_NOT_UPSTREAMS_TO_SAY = frozenset({
    "alt-svc", "content-security-policy", "cross-origin-embedder-policy", "cross-origin-opener-policy",
    "cross-origin-resource-policy", "nel", "report-to", "reporting-endpoints", "server", "set-cookie", "set-cookie2",
    "strict-transport-security", "via", "www-authenticate",
})  # fmt: skip
_LEFT_OUT = _NOT_OF_A_COPY | _NOT_UPSTREAMS_TO_SAY | {"request-id"}  # which has a place of its own
_FAMILIES_LEFT_OUT = ("access-control-", "anthropic-ratelimit-", "x-headrace-", "x-ratelimit-")


def remarks(named: Headers) -> Headers:
    """Return the headers to keep with an answer, in upstream's order; the names are lower-case."""
    listed = {part.strip().lower() for name, value in named if name == "connection" for part in value.split(",")}
    left_out = _LEFT_OUT | listed if listed else _LEFT_OUT
    return tuple([pair for pair in named if pair[0] not in left_out and not pair[0].startswith(_FAMILIES_LEFT_OUT)])
