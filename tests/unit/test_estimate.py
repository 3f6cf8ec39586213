"""Estimates learn, and stay within what is possible."""

from __future__ import annotations

import base64
import json
import random
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.budget.estimate import Estimate, Estimator, EstimatorStats
from headrace.budget.measure import at_most, longest_floor, measure, surely, weigh
from headrace.model import Call, Caller, Lane, Usage
from headrace.weight import Kind, Measure


def call(text: str = "hello", *, max_tokens: int = 1000, caller: str = "ann", model: str = "m", **more: object) -> Call:
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": text}], **more}).encode()
    return Call(
        caller=Caller(caller), body=body, model=model, max_tokens=max_tokens, stream=False, version="", betas=(), headers=(),
        lane=Lane.STANDARD, fingerprint="f", scope=caller, arrival=0.0, deadline=60.0,
    )  # fmt: skip


def test_first():
    """The first estimate is a guess: three tokens in ten bytes, half of max_tokens."""
    asked = call()
    assert Estimator().estimate(asked) == Estimate(round(len(asked.body) * 0.3), 500, 0)


def test_input_learns():
    """Input comes near what this model's bodies came to, cache reads left out."""
    estimator, asked = Estimator(), call("word " * 1000)
    for _ in range(30):
        estimator.learn(asked, Usage(input_tokens=800, cache_creation_input_tokens=200, cache_read_input_tokens=9999))
    assert estimator.estimate(asked).input_tokens == pytest.approx(1000, rel=0.02)
    assert estimator.estimate(call("word " * 1000, model="other")).input_tokens == pytest.approx(1500, rel=0.05)


def test_output_learns():
    """Output is what nine in ten calls of this caller to this model stayed under."""
    estimator = Estimator()
    for number in range(100):
        estimator.learn(call(), Usage(output_tokens=400 if number % 20 == 0 else 100))
    assert estimator.estimate(call()).output_tokens == 100
    assert estimator.estimate(call(max_tokens=10)).output_tokens == 1
    assert estimator.estimate(call(caller="bob")).output_tokens == 500


def test_counted():
    """Upstream's count of the input stands, less what its prompt cache will probably have; output is learnt as ever."""
    estimator = Estimator()
    assert estimator.estimate(call(), counted=77) == replace(estimator.estimate(call()), input_tokens=77)
    cached = call("word " * 1000, cache_control={"type": "ephemeral"})
    for _ in range(30):
        estimator.learn(cached, Usage(input_tokens=100, cache_read_input_tokens=900))
    likely = estimator.estimate(cached, counted=1000)
    assert (likely.input_tokens, likely.read_tokens) == (pytest.approx(100, abs=20), pytest.approx(900, abs=20))
    assert estimator.estimate(call("word " * 1000), counted=1000).input_tokens == 1000
    assert estimator.estimate(cached, counted=0).input_tokens == 1


def test_unknown_use():
    """An answer that never said what it used teaches nothing."""
    estimator = Estimator()
    estimator.learn(call(), Usage(known=False))
    assert repr(estimator) == "<Estimator [0 models, 0 callers x models]>"


PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + random.Random(1).randbytes(150_000)).decode()
JPEG = base64.b64encode(b"\xff\xd8\xff\xe0" + random.Random(2).randbytes(150_000)).decode()
PDF = base64.b64encode(b"%PDF-1.7 " + random.Random(3).randbytes(150_000)).decode()
NOISE = base64.b64encode(random.Random(4).randbytes(150_000)).decode()


def anthropic(kind: str, media_type: str, data: str) -> dict[str, object]:
    return {"type": kind, "source": {"type": "base64", "media_type": media_type, "data": data}}


SOURCES = {
    "png": (anthropic("image", "image/png", PNG), Kind.IMAGE),
    "jpeg": (anthropic("image", "image/jpeg", JPEG), Kind.IMAGE),
    "noise": (anthropic("image", "image/webp", NOISE), Kind.IMAGE),
    "blank": (anthropic("image", "image/png", "A" * 200_000), Kind.IMAGE),
    "names sorted": ({"data": NOISE, "media_type": "image/webp", "type": "base64"}, Kind.IMAGE),
    "url-safe": (anthropic("image", "image/jpeg", JPEG.replace("+", "-").replace("/", "_")), Kind.IMAGE),
    "pdf": (anthropic("document", "application/pdf", PDF), Kind.PDF),
    "a result": ({"type": "tool_result", "tool_use_id": "t", "content": [anthropic("image", "image/png", PNG)]}, Kind.IMAGE),
    "a chat's": ({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{NOISE}"}}, Kind.IMAGE),
    "a text of a chat": ({"type": "image_url", "image_url": f"data:image/jpeg;base64,{JPEG}"}, Kind.IMAGE),
    "audio": ({"type": "input_audio", "input_audio": {"data": NOISE, "format": "wav"}}, Kind.AUDIO),
    "a file": ({"type": "file", "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{PDF}"}}, Kind.PDF),
    "a bare file": ({"type": "file", "file": {"file_data": NOISE, "filename": "x"}}, Kind.FILE),
    "unknown to us": ({"type": "hologram", "data": NOISE}, Kind.FILE),
}


LINKS = {
    "an image": ({"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}, Kind.LINKED_IMAGE),
    "a document": ({"type": "document", "source": {"type": "url", "url": "https://example.com/a"}}, Kind.LINKED_FILE),
    "an image's file": ({"type": "image", "source": {"type": "file", "file_id": "file_1"}}, Kind.LINKED_IMAGE),
    "names sorted": ({"source": {"type": "url", "url": "http://example.com/a"}, "type": "image"}, Kind.LINKED_IMAGE),
    "a file": ({"type": "document", "source": {"file_id": "file_1", "type": "file"}, "title": "x"}, Kind.LINKED_FILE),
    "cached": (
        {"type": "image", "cache_control": {"type": "ephemeral"}, "source": {"type": "url", "url": "https://example.com/a"}},
        Kind.LINKED_IMAGE,
    ),
    "cached, names sorted": (
        {"source": {"type": "url", "url": "https://example.com/a"}, "zone": {"type": "ephemeral"}, "type": "image"},
        Kind.LINKED_IMAGE,
    ),
    "a chat's": ({"type": "image_url", "image_url": {"detail": "low", "url": "https://example.com/a"}}, Kind.LINKED_IMAGE),
    "a chat's file": ({"type": "file", "file": {"file_id": "file_1"}}, Kind.LINKED_FILE),
}


def in_a_call(*blocks: object) -> dict[str, object]:
    return {"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, *blocks]}]}


def spelled(body: object) -> list[bytes]:
    """The same JSON, as different writers spell it."""
    plain = json.dumps(body)
    return [
        plain.encode(),
        json.dumps(body, separators=(",", ":")).encode(),
        json.dumps(body, indent=3).encode(),
        plain.replace("/", "\\/").encode(),
        plain.replace("+", "\\u002b").replace("/", "\\u002F").encode(),
    ]


@pytest.mark.parametrize(("block", "kind"), SOURCES.values(), ids=SOURCES.keys())
def test_sources(block: object, kind: Kind) -> None:
    """A source is found in every dialect and every spelling, and is no text."""
    for body in spelled(in_a_call(block)):
        held = measure(body)
        assert [source.kind for source in held.sources] == [kind], body[:300]
        assert held.text_bytes < 1500
        assert surely(body) < 10


@pytest.mark.parametrize(("block", "kind"), LINKS.values(), ids=LINKS.keys())
def test_links(block: object, kind: Kind) -> None:
    """So is a source that is elsewhere: by its URL, or a file's id."""
    for body in spelled(in_a_call(block)):
        assert [source.kind for source in measure(body).sources] == [kind], body[:300]


def test_many_links() -> None:
    """Each is told from its neighbours, whatever else a call holds."""
    blocks = [LINKS["an image"][0], LINKS["a document"][0], SOURCES["png"][0], LINKS["a chat's"][0], LINKS["a file"][0]]
    kinds = [Kind.IMAGE, Kind.LINKED_IMAGE, Kind.LINKED_FILE, Kind.LINKED_IMAGE, Kind.LINKED_FILE]
    for body in spelled(in_a_call(*blocks)):
        assert sorted(source.kind for source in measure(body).sources) == sorted(kinds)


@pytest.mark.parametrize(
    "block",
    [
        {"type": "tool_use", "id": "t", "name": "fetch", "input": {"url": "https://example.com", "file_id": "x"}},
        {"type": "text", "text": json.dumps(LINKS["an image"][0])},
        {"type": "text", "text": "url"},
        {"type": "container_upload", "file_id": "file_1"},
    ],
)
def test_no_links(block: object) -> None:
    """What only names something elsewhere is text."""
    for body in spelled(in_a_call(block)):
        assert measure(body) == Measure(len(body))


@pytest.mark.parametrize("name", LINKS)
def test_links_learn(name: str) -> None:
    """What is elsewhere is expected to come to what such a source came to before, and teaches nothing of text."""
    estimator, asked = Estimator(), asking_of(LINKS[name][0])
    before = estimator.estimate(call()).input_tokens
    assert estimator.estimate(asked).input_tokens > 1600
    estimator.learn(asked, Usage(input_tokens=27_200))
    assert estimator.estimate(asked).input_tokens == pytest.approx(27_200, rel=0.05)
    assert estimator.estimate(call()).input_tokens == before


def test_many_sources() -> None:
    """Each of several is found, and told from its neighbours."""
    blocks = [SOURCES[name][0] for name in ("png", "pdf", "a chat's", "audio", "pdf")]
    for body in spelled(in_a_call(*blocks)):
        assert [source.kind for source in measure(body).sources] == [Kind.IMAGE, Kind.PDF, Kind.IMAGE, Kind.AUDIO, Kind.PDF]


@pytest.mark.parametrize("text", ["word " * 40_000, "水" * 60_000, "x" * 200_000, NOISE, json.dumps({"a": [1.5] * 40_000})])
def test_text(text: str) -> None:
    """Text is text, whatever it looks like, where nothing calls it a source."""
    body = json.dumps(in_a_call({"type": "text", "text": text})).encode()
    assert measure(body) == Measure(len(body))


def asking_of(block: object) -> Call:
    return replace(call(), body=json.dumps(in_a_call(block)).encode())


@pytest.mark.parametrize("name", ["pdf", "png", "audio", "a file"])
def test_sources_learn(name: str) -> None:
    """One answer teaches what a source of its kind comes to at its model; text and other kinds learn nothing of it."""
    estimator, asked = Estimator(), asking_of(SOURCES[name][0])
    before = estimator.estimate(call()).input_tokens
    estimator.learn(asked, Usage(input_tokens=27_200))
    assert estimator.estimate(asked).input_tokens == pytest.approx(27_200, rel=0.05)
    assert estimator.estimate(call()).input_tokens == before
    assert estimator.stats() == EstimatorStats(0, 1, 1)
    other = replace(asked, model="other")
    assert estimator.estimate(other).input_tokens == Estimator().estimate(other).input_tokens


def test_sources_learn_in_proportion() -> None:
    """A file of twice the bytes is expected to have twice the tokens; an image of twice the bytes is but an image."""
    estimator = Estimator()
    for name, double in (("pdf", PDF + PDF), ("png", PNG + PNG)):
        estimator.learn(asking_of(SOURCES[name][0]), Usage(input_tokens=10_000))
        kind, media_type = ("document", "application/pdf") if name == "pdf" else ("image", "image/png")
        twice = estimator.estimate(asking_of(anthropic(kind, media_type, double))).input_tokens
        assert twice == pytest.approx(20_000 if name == "pdf" else 10_000, rel=0.05)


def test_first_file_is_feared() -> None:
    """A file of a kind that was never seen is not taken for a page: a burst of them would go by the same mistake."""
    assert Estimator().estimate(asking_of(SOURCES["pdf"][0])).input_tokens > 27_200
    assert 1600 < Estimator().estimate(asking_of(SOURCES["png"][0])).input_tokens < 1800


def test_floor() -> None:
    """The floor is sure: a token for four words, and nothing where some of it may be free, or no words."""
    assert Estimator().estimate(call("word " * 4000)).input_floor == pytest.approx(1000, rel=0.02)
    assert Estimator().estimate(call("word " * 4000, cache_control={"type": "ephemeral"})).input_floor == 0
    assert Estimator().estimate(call("word " * 4000, context_management={"edits": []})).input_floor == 0


@pytest.mark.parametrize("text", ["x" * 300_000, NOISE, " " * 300_000, "\n" * 100_000, "\t" * 100_000, "水" * 100_000, ""])
def test_no_floor(text: str) -> None:
    """What may be few tokens to some tokenizer is surely none."""
    assert surely(json.dumps(in_a_call({"type": "text", "text": text})).encode()) < 5


@given(
    st.recursive(st.none() | st.integers() | st.just("a"), lambda inner: st.lists(inner) | st.dictionaries(st.just("b"), inner))
)
def test_layout_is_no_text(value: object) -> None:
    """However JSON is laid out, its blanks are no words."""
    for indent in (None, 1, 2, 3, 7):
        assert surely(json.dumps(value, indent=indent).encode()) <= json.dumps(value).count(", ") // 4


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), max_size=80), st.integers(1, 10**6))
def test_bounds(uses, max_tokens):
    """Whatever was learnt, output is between one and max_tokens, input at least its floor."""
    estimator = Estimator()
    for input_tokens, output_tokens in uses:
        estimator.learn(call(), Usage(input_tokens, output_tokens))
    estimate = estimator.estimate(call(max_tokens=max_tokens))
    assert 1 <= estimate.output_tokens <= max_tokens
    assert estimate.input_tokens >= max(1, estimate.input_floor)


def test_memory():
    """The least recently seen is forgotten."""
    estimator = Estimator(models=3)
    for model in "abcad":
        estimator.learn(call(model=model), Usage(100, 1000))
    assert repr(estimator) == "<Estimator [3 models, 3 callers x models]>"
    assert estimator.estimate(call(model="a")).output_tokens == 1000
    assert estimator.estimate(call(model="b")).output_tokens == 500


def test_reads_learn():
    """What upstream's prompt cache had is expected again, apart from the input that counts."""
    estimator, asked = Estimator(), call("word " * 1000)
    assert estimator.estimate(asked).read_tokens == 0
    estimator.learn(asked, Usage(input_tokens=10, cache_read_input_tokens=1200))
    assert estimator.estimate(asked).read_tokens == 1200


# Words of few letters: one such as "container" is taken for what is elsewhere.
@given(st.text(st.sampled_from('abc\n"\\ \u00e4\u65e5\U0001f600\ud83d'), max_size=3000))
def test_at_most(text):
    """No text has more tokens than that, were each of its bytes one; and it is far from what no bucket holds."""
    asked = call(text)
    estimate = Estimator().estimate(asked, has_ceilings=True)
    assert len(text.encode("utf-8", "surrogatepass")) <= estimate.most_input_tokens < 40_000
    assert estimate.most_output_tokens == asked.max_tokens
    assert Estimator().estimate(asked).most_input_tokens == 0


def test_at_most_with_images():
    """An image counts as large as one can be; tools count what upstream may say of them."""
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
    many = json.dumps({"messages": [{"role": "user", "content": [image, image]}]}).encode()
    assert 10_000 <= at_most(many) < 30_000
    tiny = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}
    assert at_most(json.dumps({"messages": [{"role": "user", "content": [tiny]}]}).encode()) >= 5_000
    plain = json.dumps({"messages": []}).encode()
    computer = json.dumps({"messages": [], "tools": [{"type": "computer_20250124", "name": "computer"}]}).encode()
    assert at_most(computer) >= at_most(plain) + 2_000


@pytest.mark.parametrize(
    "content",
    [
        {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}},
        {"type": "document", "source": {"type": "file", "file_id": "file_1"}},
        {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0x"}},
        {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0x" * 500}},
    ],
)
def test_at_most_is_unknown(content):
    """Of what is fetched from elsewhere, or has pages, nobody can say what it comes to at most."""
    assert at_most(json.dumps({"messages": [{"role": "user", "content": [content]}]}).encode()) == 2**53


def test_weighed_elsewhere() -> None:
    """What was found out when a body was read is what would be found out now; nobody looks through the body again."""
    body = b'{"cache_control":1,' + b"word " * 5_000 + b'"data":"iVBORw0KGgo' + b"A" * 5_000 + b'"}'
    known = weigh(body)
    assert (known.held, known.least_tokens, known.most_tokens) == (measure(body), surely(body), at_most(body))
    assert known.has_reads
    plain = replace(call(), body=body)
    weighed = replace(plain, weight=known)
    for has_ceilings in (False, True):
        said = Estimator().estimate(plain, has_ceilings=has_ceilings, counted=7)
        assert Estimator().estimate(weighed, has_ceilings=has_ceilings, counted=7) == said
        assert Estimator().estimate(replace(weighed, body=b"x"), has_ceilings=has_ceilings, counted=7) == said


def test_long_words_are_quick() -> None:
    """However few blanks and quotes there are, a body is looked through once."""
    began = time.process_time()
    measure((b"y" * 2_000 + b" ") * 15_000)
    assert time.process_time() - began < 1.0


@given(st.text(alphabet=' ab\n"{},:', max_size=300), st.integers(0, 60))
def test_room(text, room):
    """Where a floor cannot decide anything it is not looked for, and what is reserved of a bucket of that room is the same."""
    estimator, body = Estimator(), text.encode()
    for tokens in (1, 20):
        asked = replace(call(), body=body)
        assert surely(body) <= longest_floor(body)
        full, quick = estimator.estimate(asked), estimator.estimate(asked, room=room)
        assert quick.input_tokens == full.input_tokens
        assert max(min(quick.input_tokens, room), quick.input_floor) == max(min(full.input_tokens, room), full.input_floor)
        estimator.learn(asked, Usage(tokens, 1))
