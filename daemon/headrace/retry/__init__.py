"""
Retries: one owner, one policy, one durable record.

`policy.py` says whether and when to try again; `tickets.py` keeps the truth about every call that may outlive its RPC;
`rq.py` is the alarm clock that says "make attempt n of ticket t, not before T"; `sweeper.py` finds what fell through.
`adopting.py` seals what our own Valkey holds from before there was a seal. docs/tickets.md tells the life of a ticket.
"""
