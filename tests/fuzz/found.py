"""
What broke a decoder once, by its target, as short as it could be made. Each is tried in every run of the tests.

A finding of a long run goes here, beside the mend.
"""

from __future__ import annotations

from headrace.v1.usage_service_pb2 import GetUsageRequest

_DIGITS = b"9" * 400
_MANY_DIGITS = b"9" * 4400
_DEEP = 100_000

_MESSAGE = b'{"model":"m","messages":[{"role":"user","content":"x"}],"max_tokens":%b}'
_START = b'event: message_start\ndata: {"type":"message_start","message":{"usage":{"input_tokens":%b}}}\n\n'

_NESTED = b'{"x":' * 12_000

_FOREIGN_DIGITS = ("\u0662\u0660\u0662\u0663-\u0660\u0666-\u0660\u0661".encode(), "127.0.0.1:\u0667\u0664".encode())
_TICKET = b"state=SUCCEEDED\ncreated=1\ndue=1\ndeadline=1\nattempts=%b\nbroken=0\nsource=%b"
_ASKS = (
    GetUsageRequest(caller="a*" * 30_000),
    GetUsageRequest(labels="[!" * 30_000),
    GetUsageRequest(group_by=["label.env"] * 5_000),
)

FOUND: dict[str, tuple[bytes, ...]] = {
    "admin.act": (b'"{;}\xff"', b"[" * 50_000),
    "admin.view": (b"usage?month=9999-12",),
    "audit.act": (b'18446744073709551615-1\n{"by":"a","what":"b"}',),
    "backups": (b'{"format":1,"made":"","keys":-1e400,"sha256":{}}', b"[" * 50_000),
    "grpc.reflection": (b"headrace.v1.Nothing",),
    "budgets.level": (b"used=" + b"9" * 40 + b"\nlevel=" + b"9" * 40 + b"\nat=" + b"9" * 40,),
    "bodies.messages": (_MESSAGE % _DIGITS, _MESSAGE % _MANY_DIGITS, _MESSAGE % b"1e400", b"[" * 60_000, b'{"a":' * 12_000),
    "bodies.chat": (_MESSAGE % _DIGITS, _MESSAGE % _MANY_DIGITS),
    "translate.params": (
        b'{"model":"m","max_tokens":-0}',
        b'{"model":"m","temperature":-0}',
        b'{"model":"m","x":[-0,-0.0,0]}',
        b'{"model":"\\ud83d","max_tokens":-0,"messages":[]}',
        b'{"model":"a -0 b"}',
        b'{"model":"\\ud83d","max_tokens":1e2,"messages":[{"role":"user","content":"\\ud83d\xed\xa0\x80\\ude00"}]}',
    ),
    "translate.message": (b'{"type":"message","content":[],"n":-0,"usage":{"input_tokens":-0}}',),
    "config.toml": (
        b"x = " + _MANY_DIGITS, b"x = " + b"[" * _DEEP, b"x = " + b'{"a"=' * _DEEP, b"x = \xff",
    ),
    "config.environment": (
        b"HEADRACE_LIMIT=" + b"[" * _DEEP, b"HEADRACE_CACHE=" + b'{"a":' * _DEEP + b"1", b"HEADRACE_CACHE__TTL=\xff",
        b"HEADRACE_UPSTREAM__API_KEY=\xed\xa0\x80", b"HEADRACE_LIMIT=" + b"[" * 400 + b"]" * 400, b"HEADRACE_CALLER__\xff=1",
        b"HOME=/\xff", b"HEADRACE_SCHEDULE__MAX_WAITING=" + _MANY_DIGITS, b"HEADRACE_CACHE={2026-11-27=1}",
        b"HEADRACE_CACHE=2026-11-27T15:00:00Z", b'HEADRACE_CALLER={"a": {"lan\\ud800e": "batch", "weight": 2}}',
    ),
    "config.kinds": (b"unix://///run/h.sock", b"unix:///run/h.sock", b"redis://[", b"http://h:99999999", *_FOREIGN_DIGITS),
    "upstream.waits": (
        b"retry-after: 1e300", b"retry-after-ms: 1e400", b"retry-after: nan", b"retry-after: " + _DIGITS,
        b"date: x\nretry-after: Fri, 31 Dec 9999 24:61:61",
    ),
    "upstream.errors": (
        b"retry-after: 9999999999999999999", b"retry-after-ms: " + b"9" * 30, b"retry-after: 1e300\n\n{}",
        b"request-id: a\xffb", b'request-id: a b\n\n{"error":{"type":"\\ud83d","message":"\\udc00"}}',
        b'\n\n{"error":{"code":' + _MANY_DIGITS + b"}}", b"\n\n" + b"[" * 60_000,
    ),
    "sse.splitter": (
        _START % _MANY_DIGITS, _START % b"1e400", b"\xef\xbb", b"\r\r\n\n\r", b"data\n\n",
        b'data: {"error":{"type":"o\xee"}}\n\n',
    ),
    "answer-heads": (b"HTTP/1.1 200 OK\ncontent-length:" + b" " * 60_000 + b"x\n\n", b"HTTP/1.1 200 OK\nContent-Length:,\n"),
    "grpc.usage": tuple(ask.SerializeToString() for ask in _ASKS),
    "answers.message": (b'{"type":"message","content":[],"usage":{"output_tokens":' + _MANY_DIGITS + b"}}",),
    "answers.chat": (b'{"choices":[],"usage":{"completion_tokens":' + _MANY_DIGITS + b"}}",),
    "batches.results": (b'{"a\xa2"\n', b'{"result":{"message":{"model":"\xff","usage":{}}}}\n', b"[" * 60_000 + b"\n"),
    "codec.answer": (b'{"form":"json","created":1e308,"usage":[1,2,3,4,true]}\n', b"\xff\n", b"[" * 60_000, _NESTED),
    "codec.error": (
        b'{"class":"InvalidCall","retry_after_s":1e308}\n', b'{"class":"UpstreamError","status":-1,"retry_after_s":1e18}\n',
        b'{"class":"QueueFull","retry_after_s":-1e300}\n', b'{"class":"UpstreamError","headers":[["x","\\u0100"]]}\n',
        b'{"class":"X"}\n', b"{}", _NESTED, b'{"class":"UpstreamError","status":99999999999}\n',
    ),
    "codec.event": (b'{"name":"e","data_bytes":-1}\nx', b'{"name":"e","data_bytes":1,"headers":[["a","\\u0100"]]}\nx'),
    "flight.items": (
        b"l1 upstream t\n?", b"l", b"lx y z\n!", b"e", b"\xff", b"l1 upstream t\n!{}", b"l" + _MANY_DIGITS + b" a b\n={}",
    ),
    "limits.organisation": (b'{"own":{"a":{"rates":{"requests":0}}},"since":1}', _NESTED, b"\xff"),
    "resources.made": (b'{"container":{"id":"container_1\xff"}}', b'"container"' + b"[" * 60_000, b'{"file_id":"\\ud83d"}'),
    "resources.listing": (b'/v1/files\n{"data":[{"id":"a\xff"}]}', b'/v1/files\n{"data":[],"x":' + b"[" * 60_000),
    "tickets.hash": (
        b"state=QUEUED", b"state=\xff", b"state=QUEUED\ncreated=nan", b"state=X\nattempts=" + _MANY_DIGITS,
        _TICKET % (b"9" * 30, b""), _TICKET % (b"-9999999999", b""), _TICKET % (b"1", b"nowhere"),
    ),
    "rq.job": (
        b'data=["headrace.worker.run_attempt",null,["t1",1,' + _DIGITS + b"],{}]",
        b'data=["headrace.worker.run_attempt",null,["t1",1,-' + _DIGITS + b"],{}]",
        b'data=["headrace.worker.run_attempt",null,["t1",1,NaN],{}]',
        b'data=["headrace.worker.run_attempt",null,["t1",1,' + _MANY_DIGITS + b"],{}]",
        b"data=" + b"[" * 60_000, b"data=\x80\x04\x95", b"status=\xff", b"retries_left=x",
    ),
    "keys.record": (b'{"id":"a","name":"\xff"}', b"[" * 60_000, _NESTED),
    "tickets.call": (b'{"ends":1e400}', _NESTED, b'{"model":"\\ud83d","x":' + b"[" * 60_000),
    "cache.entry": (b"HRe2" + bytes(16) + b"\0\0\xff\xff" + _NESTED,),
    "purges.notice": (b'{"selector":{"all":true,"model":"x"},"at":1}', b"\xff", b"[" * 60_000, b"99999999999999999999-1"),
    "limits.learned": (
        b'{"rates":{"requests":0},"burst_s":60,"since":1.0}', b'{"rates":{"requests":5},"burst_s":0,"since":1.0}',
        b'{"rates":{"requests\xc0\x80"', b'{"rates":{"requests":-5},"burst_s":60,"since":1.0}', b"[" * 60_000,
        b'{"rates":{},"burst_s":60,"since":1.0,"by":"account"}',
    ),
    "usage.cell": (
        b'["a"]\n' + b"9" * 30, b'["a"]\nx', b'["a"]\n' + _MANY_DIGITS, b'["a\xff"]', b'["a","b","c","d","e",' + b"[" * 60_000,
    ),
    "nudges.trouble": (b"9" * 30 + b" m", _MANY_DIGITS + b" m", "\u00b2 m".encode()),
    "overrides": (b'0 {"since":1,"until":1e308,"by":"a","figures":{}}', b"0 \xff", b"0 " + b"[" * 60_000, b"0 " + _NESTED),
}  # fmt: skip
