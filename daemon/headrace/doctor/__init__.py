"""
`headrace doctor`: what an operator would look at, tried and said line by line, each with what to do about it.

    finding.py   one line of it
    machine.py   this machine: what the daemon needs of it, whose files are whose, how much room there is
    redis.py     Redis, or our own Valkey: whether it answers, and what it is
    upstream.py  the API: its name, the way there, TLS, our key, its models
    hosts.py     the other processes on the same Redis
    command.py   the commands

It changes nothing, and may run beside a daemon; what it tries at upstream costs nothing (it asks for the list of models).
"""
