"""
Headrace, the map. Read `flow.py` first: one call's walk along this line.

    edge -> admission -> cache -> flight -> schedule -> upstream -> settle -> cache

Imports run one way: the doors know the line, the line knows the ground, and never back. pyproject.toml has the layers in full,
and `make lint` checks them.

Doors and lives
    main        the command line              daemon      start, serve, reload, drain, leave
    wiring      joins the parts               config/     one TOML file and the environment, into values
    demo/       `make demo`                   simulator/  a stand-in for the API
    edge/       gRPC and HTTP, into one Ask   worker      the function that queue jobs name

The line
    flow        the whole walk                leader      its second half: attempt, park, keep
    endpoints   how each is treated           relay       the way of what is only carried
    runner      a ticket's next attempt       admission   bytes into a Call, without I/O
    cache/      answers kept, three tiers     flight/     identical calls share one
    schedule    waiting for a turn            budget/     buckets, limits, estimates, the ledger
    upstream/   the API, and its failures     retry/      policy, tickets, the queue, its worker
    callers     who asks, and keys            presence    how many hosts share the limits
    embedded    our own Valkey

The ground
    link        one client for Redis          pipe        its connection
    keys        every key in Redis            errors      what can go wrong
    forms/      an answer as JSON, as events  codec       answers and errors as bytes
    model       the values that travel        observe     every metric and log event
    heads       HTTP headers as bytes         logs        set up, with no error's text
    clock       time, from outside            deadline    a moment as a block of code
    units       durations and sizes           lockfile    one daemon to a place
    sockets     where unix sockets lie        notify      systemd
    v1/         generated from protos/

A stage becomes a folder when it has a port and adapters. Scripts in Lua lie beside the module that runs them.
"""
