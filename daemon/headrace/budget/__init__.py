"""
Budgets: how much of upstream each caller may use, shared by all processes.

    limits.py    which buckets a call draws from
    limit.py     one limit, and whether it can be kept
    matching.py  which calls a limit holds for, and which of them share a bucket
    calendar.py  days and months
    draw.py      what equal calls draw from, worked out once
    costs.py     what a call costs, bucket by bucket: reserved and used
    estimate.py  what a call will probably use, learnt from what calls used
    question.py  what upstream is asked where it is to count the input; pure
    want.py      what a call wants of one bucket, and the three forms of buckets
    bucket.py    the arithmetic of one bucket, pure
    ledger.py    the port: reserve, settle, release
    pulse.py     whose leases may lapse, while Redis hears everybody; pure
    redis.py     the ledger of all processes (reserve.lua, settle.lua, renew.lua; they share bucket.lua, gate.lua, line.lua)
    borrowing.py the ledger before it, which grants from what it has borrowed (exchange.lua)
    exchange.py  one exchange of it with Redis, in the script's words
    quanta.py    how much is borrowed, and what is said of it, pure
    memory.py    the same rules in this process alone
    lines.py     who waits in it, and what that costs; pure
    known.py     what callers are told of their budget
    outage.py    what is spent while Redis is away, and told when it is back
    loss.py      what each limit does while Redis is away
"""
