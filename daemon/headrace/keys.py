r"""
Every Redis key and channel we write: what is in it, and when it goes.

All budget keys carry the hash tag `{budget}`, because one script takes from many of them at once. RQ's own keys start with
`rq:`. Nothing here ever holds an API key in the clear; `<owner>` is a caller's name, with "#" and the digest of its own key for
upstream where that is what goes there (owner.py).

| key | type | what is in it | goes |
|---|---|---|---|
| headrace:{budget}:bucket:<id> | hash | a rate bucket: level (units), at (us), what others use | when it would be full again |
| headrace:{budget}:bucket:<id> | hash | what is used of one calendar window | a day past its end |
| both, while any of it is lent | | lent, lapse; inbox of the borrower -> tokens, loan's end (us), number | 90 s past the loan |
| headrace:{budget}:bucket:gate:<class> | hash | a gate: its state, and who has passed | a minute unused |
| headrace:limits:learned | hash | model class -> JSON: its limits as upstream says them | never |
| headrace:limits:organisation | string | JSON: upstream's own list of limits, and when it was read | two days after that |
| headrace:{budget}:permits:<id> | zset | "hold@inbox" by lease end (us) of one concurrency bucket | an hour after the last |
| headrace:{budget}:line:<id> | zset | who waits for a bucket, by rank (us) | with its last waiter |
| headrace:{budget}:waits:<id> | hash | waiter -> lease end (us), cost (units), its charge (us) | with its last waiter |
| headrace:{budget}:fair:<id> | hash | the clock of a line (us); weights, lane by lane | 3 s after the last wait |
| headrace:{budget}:flows:<id> | zset | flows ahead of the clock, by finish (us) | 3 s after the last wait |
| headrace:{budget}:heard | zset | inboxes of processes by last beat (us) | one by one, at their deaths |
| headrace:{budget}:holding | hash | inbox -> the keys of the permits that it held at its last beat | the same |
| headrace:{budget}:pulse | string | from when until when leases that ended are over (us) | an hour after the last beat |
| headrace:{budget}:hold:<id> | string | a reservation's state, against scripts sent twice | an hour; a minute past its end |
| headrace:cache:entry:<fingerprint> | string | one encoded entry | ttl + stale |
| headrace:cache:index | zset | fingerprints by the moment they go | never (entry by entry) |
| headrace:cache:about | hash | fingerprint -> "bytes|scope|model" | never (entry by entry) |
| headrace:cache:bytes | string | the sum of those bytes | never |
| headrace:cache:purges | stream | purges, so that a host that was away hears of them | last 10,000 |
| headrace:counted:<fingerprint> | string | its input, as upstream counted it; empty: it was asked | 10 minutes at least |
| headrace:flight:<fingerprint> | hash | token, inbox, ticket and limit of the leader; lease end (us) | landing, or a day |
| headrace:log:<name> | stream | what happened in a flight or to a ticket, for its followers | a minute after the last item |
| headrace:audience:<name> | zset | inboxes of the processes that follow, by lease end (us) | lease by lease |
| headrace:ticket:<id> | hash | one ticket | `keep_results` after its end; dead letters `keep_letters` |
| headrace:trail:<ticket> | hash | the tries of a ticket, by number | a day after the last |
| headrace:tickets | zset | tickets by the moment the sweeper should look at them (us) | terminal state |
| headrace:due | zset | tickets that wait, by the moment of their next attempt (us) | its start, or their end |
| headrace:held | zset | "<holder> <ticket>" of all tickets that run, a holder being "<inbox>\|<token>" | attempt by attempt |
| headrace:missed:<inbox> | string | since when a process that holds tickets is not heard (us) | 3 s later |
| headrace:tickets:<owner> | zset | an owner's tickets by creation (us) | with the ticket |
| headrace:live:<owner> | zset | its own-standing tickets that have not ended, by when they surely have (us) | one by one |
| headrace:live-bytes:<owner> | hash | the bytes of their bodies, one by one and as `sum` | with them |
| headrace:retries | hash | first attempts and retries at upstream, by bins of 5 s | a minute after the last |
| headrace:owners | zset | whose tickets there are, by the latest one's creation (us) | 8 days after that |
| headrace:letters | zset | dead letters, "<id>|<owner>", by failure (us) | `keep_letters` after the last |
| headrace:watchers:<id> | set | inboxes of the processes where a ticket is watched | half a minute after the last look |
| headrace:live-bytes | hash | the bytes of all callers' as `sum` | with the last of them |
| headrace:idempotency:<owner>:<hash> | hash | fingerprint and ticket of the first call | 24 h, or its failure |
| headrace:keys | hash | key id -> JSON: name, digest, how it was hashed, prefix, created, expires, role | revocation |
| headrace:keys:used | hash | key id -> when it was used last (Unix seconds) | with the key |
| headrace:keys:version | string | how often keys were changed | never |
| headrace:overrides | hash | "limit:<name>" or "caller:<name>" -> its end (us), and JSON | one by one, at their ends |
| headrace:batch:{<id>}:made | string | JSON: who made a message batch | 31 days |
| headrace:batch:{<id>}:counted | string | its results were read, and counted | 31 days |
| headrace:resource:<id> | string | who made a thing at upstream: `<owner>` | 31 days; until it is deleted |
| headrace:hosts | zset | instances by last heartbeat (us) | lapse by lapse |
| headrace:host:<instance> | string | JSON: what a process says of itself | 15 s after the last word |
| headrace:drain:<instance> | string | JSON: who put it out of service, and why | with the process; a day without it |
| headrace:call:<id> | list | what came of the calls of this id, or ticket | a day after the last; see calls |
| headrace:audit | stream | what operators and admins did | last 10,000 |
| headrace:calls | zset | those ids, by when they came (us) | the last `log.explain`, of a day |
| headrace:{usage}:minute:<minute> | hash | cell -> figures of one minute (UTC) | two days after it |
| headrace:{usage}:day:<day> | hash | the same of one day | 13 months after it |
| headrace:{usage}:month:<month> | hash | the same of one month | 13 months after it |
| headrace:{usage}:posted:<instance> | string | a process's last post by number, against posts sent twice | two days |
| headrace:{usage}:traffic | list | one line a call, as JSON, where `usage.traffic` is on | line by line; 8 days |
| headrace:schema | string | the highest version of our records that has been here (schema.py) | never |
| headrace:probe | string | nothing: whether Redis takes a write again | a second |
| headrace:inbox:<instance> | channel | nudges for one process: "<topic> <payload>" | |
| headrace:all | channel | nudges for every process | |
"""

from __future__ import annotations

import hashlib

ALL = "headrace:all"
AUDIT = "headrace:audit"
CACHE_ABOUT = "headrace:cache:about"
CACHE_BYTES = "headrace:cache:bytes"
CACHE_INDEX = "headrace:cache:index"
CACHE_PURGES = "headrace:cache:purges"
CALLS = "headrace:calls"
DUE = "headrace:due"
HEARD = "headrace:{budget}:heard"
HELD = "headrace:held"
HOLDING = "headrace:{budget}:holding"
HOSTS = "headrace:hosts"
KEYS = "headrace:keys"
KEYS_USED = "headrace:keys:used"
KEYS_VERSION = "headrace:keys:version"
LEARNED = "headrace:limits:learned"
LIVE_BYTES = "headrace:live-bytes"
LETTERS = "headrace:letters"
ORGANISATION = "headrace:limits:organisation"
OVERRIDES = "headrace:overrides"
OWNERS = "headrace:owners"
PROBE = "headrace:probe"
RETRIES = "headrace:retries"
SCHEMA = "headrace:schema"
PULSE = "headrace:{budget}:pulse"
TICKETS = "headrace:tickets"
USAGE_TRAFFIC = "headrace:{usage}:traffic"


def inbox(instance: str) -> str:
    return f"headrace:inbox:{instance}"


def bucket(bucket_id: str) -> str:
    return f"headrace:{{budget}}:bucket:{bucket_id}"


def permits(bucket_id: str) -> str:
    return f"headrace:{{budget}}:permits:{bucket_id}"


def line(bucket_id: str) -> str:
    return f"headrace:{{budget}}:line:{bucket_id}"


def waits(bucket_id: str) -> str:
    return f"headrace:{{budget}}:waits:{bucket_id}"


def hold(hold_id: str) -> str:
    return f"headrace:{{budget}}:hold:{hold_id}"


def cache_entry(fingerprint: str) -> str:
    return f"headrace:cache:entry:{fingerprint}"


def counted(fingerprint: str) -> str:
    return f"headrace:counted:{fingerprint}"


def flight(fingerprint: str) -> str:
    return f"headrace:flight:{fingerprint}"


def ticket_log(ticket: str) -> str:
    return log(f"flight:ticket:{ticket}:log")


def log(name: str) -> str:
    return f"headrace:log:{name}"


def audience(name: str) -> str:
    return f"headrace:audience:{name}"


def ticket(ticket_id: str) -> str:
    return f"headrace:ticket:{ticket_id}"


def watchers(ticket_id: str) -> str:
    return f"headrace:watchers:{ticket_id}"


def missed(inbox: str) -> str:
    return f"headrace:missed:{inbox}"


def trail(ticket_id: str) -> str:
    return f"headrace:trail:{ticket_id}"


def host(instance: str) -> str:
    return f"headrace:host:{instance}"


def drain(instance: str) -> str:
    return f"headrace:drain:{instance}"


def call(id: str) -> str:
    return f"headrace:call:{id}"


def tickets_of(owner: str) -> str:
    return f"headrace:tickets:{owner}"


def live_tickets_of(owner: str) -> str:
    return f"headrace:live:{owner}"


def live_bytes_of(owner: str) -> str:
    return f"headrace:live-bytes:{owner}"


def usage(kind: str, bucket: str) -> str:
    return f"headrace:{{usage}}:{kind}:{bucket}"


def usage_posted(instance: str) -> str:
    return f"headrace:{{usage}}:posted:{instance}"


def batch(batch_id: str) -> str:
    return f"headrace:batch:{{{batch_id}}}:made"


def batch_counted(batch_id: str) -> str:
    return f"headrace:batch:{{{batch_id}}}:counted"


def resource(id: str) -> str:
    return f"headrace:resource:{id}"


def idempotency(owner: str, key: str) -> str:
    # The caller's key is free text of any length; its hash is not.
    return f"headrace:idempotency:{owner}:{hashlib.sha256(key.encode()).hexdigest()[:40]}"
