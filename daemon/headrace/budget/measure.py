"""
What a body holds, by its bytes alone: how much text, which sources, and how many tokens it surely comes to.

A source is a file in base64, of whatever dialect: an image's `data`, a `data:` URL, `file_data`, `input_audio`. Its bytes say
little of its tokens, so it must not be taken for text. It is found by what all of them have in common, a long run of base64's
letters, at which the body is probed every so many bytes: 32 MB take a few milliseconds. What kind it is its first letters say,
or the words around it. A run that nothing calls a source is text, which a model may well be shown. Or it is elsewhere, and the
body has its URL or the id of its file; only the object that it stands in tells it from a tool's input.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

from headrace.weight import Kind, Measure, Source, Weight

# Both alphabets, and what JSON may write in their place: \/ and \u002b.
_LETTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=-_\\"
_SHORTEST_BYTES = 512  # of a source; what is less is text
_PROBE_BYTES = 64
_MOST_PROBES = 16_384
_MOST_RUNS = 2_000  # no model is shown more sources than a few hundred
_AROUND_BYTES = 64  # before and after a run, where its kind may stand

_BEGINNINGS = (
    (b"iVBORw0KGgo", Kind.IMAGE),  # PNG
    (b"/9j/", Kind.IMAGE),  # JPEG
    (b"R0lGOD", Kind.IMAGE),  # GIF
    (b"JVBERi0", Kind.PDF),
    (b"SUQz", Kind.AUDIO),  # MP3
)  # and UklGR is RIFF: WebP or WAV
_WORDS = (
    (b"image", Kind.IMAGE),
    (b"pdf", Kind.PDF),
    (b"audio", Kind.AUDIO),
    (b"base64", Kind.FILE),
    (b'"data"', Kind.FILE),
    (b"file_data", Kind.FILE),
)
_has_word = re.compile(b"|".join(re.escape(word) for word, _ in _WORDS)).search


_MOST_NAMES, _MOST_VALUES, _MOST_OBJECTS = 10_000, 200_000, 50_000
_READS = b'"cache_control"'  # without it nothing is read from upstream's prompt cache


def weigh(body: bytes) -> Weight:
    """Return all that is to be known of a body's input; of a large one that takes up to a second."""
    return Weight(measure(body), surely(body), at_most(body), has_reads(body), is_plain(body))


def is_plain(body: bytes) -> bool:
    """Whether a body holds few things, however large they are: names, values and objects take the time, and bytes do not."""
    if body.count(b'":') > _MOST_NAMES or body.count(b",") > _MOST_VALUES:
        return False
    return body.count(b"{") + body.count(b"[") <= _MOST_OBJECTS


def has_reads(body: bytes) -> bool:
    """Whether some of a body may be read from upstream's prompt cache."""
    return _READS in body


def measure(body: bytes) -> Measure:
    """Return what a body holds. Sources of less than half a kilobyte, and of less than a probe's step, count as text."""
    size = len(body)
    runs = tuple(itertools.islice(_runs(body), _MOST_RUNS)) if size > _SHORTEST_BYTES else ()
    if not runs:
        links = _links(body, 0, min(size, _SEARCHED_BYTES)) if _has_links(body) else ()
        return Measure(size, tuple(itertools.islice(links, _MOST_LINKS)))
    sources = [Source(kind, end - begin) for kind, begin, end in runs]
    begins, ends = [0, *[end for _, _, end in runs]], [*[begin for _, begin, _ in runs], len(body)]
    between = zip(begins, ends, strict=True)
    links = (link for begin, end in between for link in _links(body, begin, min(end, begin + _SEARCHED_BYTES)))
    sources += itertools.islice(links, _MOST_LINKS)
    return Measure(len(body) - sum(source.size_bytes for source in sources), tuple(sources))


def _runs(body: bytes) -> Iterator[tuple[Kind, int, int]]:
    step = max(_SHORTEST_BYTES - _PROBE_BYTES, len(body) // _MOST_PROBES)
    at = 0
    while at < len(body):
        if body[at : at + _PROBE_BYTES].translate(None, _LETTERS):
            at += step
            continue
        begin, end = _run(body, at, step)
        if end - begin >= _SHORTEST_BYTES and (kind := _kind(body, begin, end)):
            yield kind, begin, end
        at = max(at + step, end)


def _has_links(body: bytes) -> bool:
    return b'"url"' in body or b'"file_id"' in body


_LINKS = ((b'"url"', b'"http'), (b'"file_id"', b'"'))
_LINK_BYTES = 300  # around a link, where the object that it stands in begins, and what that is
_MOST_LINKS = 1000
_SEARCHED_BYTES = 8_000_000  # between two runs; more text than that fits no model
_INNER = re.compile(rb"\{[^{}]*\}")
_PARENTS = (b'"source"', b'"image_url"', b'"file"')


def _links(body: bytes, begin: int, end: int) -> Iterator[Source]:
    for name, beginning in _LINKS:
        at = begin - 1
        for _ in range(_MOST_LINKS):
            at = body.find(name, at + 1, end)
            if at < 0:
                break
            value = body[at + len(name) : at + _LINK_BYTES].lstrip()
            if value.startswith(b":") and value[1:].lstrip().startswith(beginning) and (kind := _kind_of_link(body, at)):
                yield Source(kind, 0)


def _kind_of_link(body: bytes, at: int) -> Kind | None:
    # Objects beside the source, which have kinds of their own, are left out.
    before = _INNER.sub(b"", body[max(0, at - _LINK_BYTES) : at])
    before = before[: max(0, before.rfind(b"{"))].rstrip(b" \t\r\n:")
    if not before.endswith(_PARENTS):
        return None
    # A block says what it is before its source or after it.
    block = before[before.rfind(b"{") :]
    if b'"type"' not in block:
        block = _INNER.sub(b"", body[at : at + _LINK_BYTES].partition(b"}")[2]).partition(b"}")[0]
    return Kind.LINKED_IMAGE if b'"image' in block + before[-len(b'"image_url"') :] else Kind.LINKED_FILE


def _run(body: bytes, at: int, step: int) -> tuple[int, int]:
    """Return where the run around *at* begins and ends: at a quote, a blank, or the comma of a `data:` URL."""
    first = max(0, at - step - _PROBE_BYTES)
    rfind = body.rfind
    begin = max(rfind(b'"', first, at), rfind(b" ", first, at), rfind(b",", first, at), rfind(b":", first, at)) + 1
    return max(begin, first), _end_of_run(body, at)


def _end_of_run(body: bytes, at: int) -> int:
    # In steps that grow: to look for the one sign through all the rest, where the other is near, would take minutes in all.
    step = _SHORTEST_BYTES
    while at < len(body):
        found = [end for sign in b'" ' if (end := body.find(sign, at, at + step)) >= 0]
        if found:
            return min(found)
        at, step = at + step, step * 2
    return len(body)


def _kind(body: bytes, begin: int, end: int) -> Kind | None:
    letters = body[begin : begin + 32]
    if letters.startswith((b"\\", b"_", b"/")):  # a slash, in whatever words
        letters = letters.replace(b"\\/", b"/").replace(b"_", b"/")
    for beginning, kind in _BEGINNINGS:
        if letters.startswith(beginning):
            return kind
    before, after = body[max(0, begin - _AROUND_BYTES) : begin].lower(), body[end : end + _AROUND_BYTES].lower()
    around = before + b"|" + after
    if not _has_word(around):  # as of nearly all runs that are text
        return None
    # The nearest first: what stands further away may speak of a neighbour.
    found = [kind for around in (before, after) for word, kind in _WORDS if word in around]
    named = [kind for kind in found if kind is not Kind.FILE]
    return (named or found or [None])[0]


# What is sure.

# With any of these some of the input is free, or never shown to the model: read from upstream's cache, thought in earlier
# turns (which is signed), cleared away, loaded only when it is asked for, a file that is no base64.
_FREE = (b'"cache_control"', b'"signature"', b'"context_management"', b'"defer_loading"', b"data:")
_LONGEST_BYTES = 8_000_000  # of a body that is searched for them; what is longer fits no model
_LOOKED_AT_BYTES = 2_000_000  # words past it are not counted, so that counting stays cheap
_MOST_WORDS_PER_TOKEN = 4  # no tokenizer takes more of them together, over a whole text


def surely(body: bytes) -> int:
    """
    Return how many tokens a body comes to at least, whatever the tokenizer; 0 where that is not sure.

    Words between single blanks are counted, and nothing else: no base64, no indentation, no script that has no blanks.
    """
    if len(body) > _LONGEST_BYTES:
        return 0
    end = min(len(body), _LOOKED_AT_BYTES)

    def count(text: bytes) -> int:
        return body.count(text, 0, end)

    # Runs of blanks of odd length, less those that are not between words but JSON's own.
    blanks = count(b" ") - 2 * count(b"  ")
    words = blanks - count(b"\n") - count(b'": ') - count(b'", ') - count(b"}, ") - count(b"], ")
    tokens = max(0, words // _MOST_WORDS_PER_TOKEN)
    return 0 if tokens and any(mark in body for mark in _FREE) else tokens


def longest_floor(body: bytes) -> int:
    """Return what `surely` returns at most for a body of this length: no two of its words have less than a blank between."""
    return (len(body) + 1) // (2 * _MOST_WORDS_PER_TOKEN)


_UNSEEN = 1 << 53  # tokens: more than any bucket holds
_MOST_IMAGE_TOKENS = 5_000  # of one image, whatever its size: upstream makes larger ones smaller
_MOST_TOOL_TOKENS = 1_000  # that upstream's own tools add by their descriptions, each, and any tools at all
_OVERHEAD_TOKENS = 64  # that the dialogue's own marks may come to beyond the bytes of JSON's
# What says that some of the input is not in the body: fetched from elsewhere, or said by tools that upstream runs itself.
_ELSEWHERE = (
    b'"url"', b"file_id", b"mcp_server", b"web_search", b"web_fetch", b"tool_search", b"code_execution", b'"container"',
    b"advisor", b"previous_response_id",
)  # fmt: skip


def at_most(body: bytes) -> int:
    """
    Return how many tokens of input a body surely does not pass; 2^53 where nobody can say.

    No tokenizer takes less than a byte for a token, and JSON no less bytes than the text has. What does not stand in the body
    as text counts by what upstream makes of it at most: an image has its bound; a file has none, for its pages may be many in
    few bytes.
    """
    held = measure(body)
    if any(source.kind is not Kind.IMAGE for source in held.sources) or any(mark in body for mark in _ELSEWHERE):
        return _UNSEEN
    if b'"document"' in body or b"application/pdf" in body:  # a file so small that it was taken for text
        return _UNSEEN
    images = max(len(held.sources), body.count(b'"image'))
    tools = body.count(b'"tools"') + body.count(b"_20")  # as in bash_20250124
    return held.text_bytes + images * _MOST_IMAGE_TOKENS + tools * _MOST_TOOL_TOKENS + _OVERHEAD_TOKENS
