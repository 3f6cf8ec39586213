"""
Headrace, the map. Read `flow.py` first: one call's walk along this line.

    edge -> admission -> cache -> flight -> schedule -> upstream -> settle -> cache

Imports run one way: the doors know the line, the line knows the ground, and never back. pyproject.toml has the layers in full,
and `make lint` checks them.

Doors and lives
    main        the command line              daemon      start, serve, reload, drain, leave
    steering    its limits, hold, release     keyring     its keys
    letterbox   its dead letters              terminal    what commands share
    overview    its status, hosts, drain      explaining  why a call was slow
    ticketing   its tickets                   acting      on many things, one by one
    passkey     root needs no key
    operated    what operators look at        built       of what, by what
    condition   ready, degraded or neither    doctor/     whether all is well, around it too
    needs       of its machine                loaded      the configuration of now
    backups     of our own Valkey             owned       whose the state directory is
    certificates  shown at the doors          about       what runs here
    wiring      how the parts live            edges       opens and closes the doors
    making      makes and joins them          standing    how they stand, as it is told
    edge/       gRPC and HTTP                 worker      the function that queue jobs name
    config/     TOML and the environment      rehearse/   a configuration, simulated
    demo/       `make demo`                   simulator/  a stand-in for the API
    admin/      the live page                 top/        the same in a terminal

The line
    flow        the whole walk                pursuit     calls that go on without their caller
    attempts    one attempt at upstream       parking     the wait in the queue
    replying    what a caller is given        patience    how long a caller waits
    endpoints   how each is treated           carry       the way of what is only carried
    admission   bytes into a Call             bodies/     what a body asks
    answers     judged, and told in two forms
    once        one key, one answer
    cache/      answers kept, three tiers     flight/     identical calls share one
    schedule/   waiting for a turn            budget/     buckets, limits, estimates, the ledger
    budgets/    seen and steered by people    hosts/      who shares the Redis; drained
    explain/    why a call was slow           audit       what operators did
    upstream/   the API, and its failures     retry/      policy, tickets, the queue, its worker
    tuning/     what upstream says of itself
    callers     who asks                      keystore    keys, as Redis holds them
    embedded    our own Valkey                mending     of its data, when
    aof         what it wrote, made whole     serverlog   what it says
    outcome     what came of one call         usage/      all of that, added up
    batches/    what message batches used     resources/  whose things at upstream are
    meters      by caller, limit and class    call_log    a line a call
    trails      of tickets, in Redis          traces/     spans, for OpenTelemetry
    survey      all processes asked at once

The ground
    link        one client for Redis          pipe        its connection
    listener    nudges from other processes   replies     what an error of Redis means
    refusals    what Redis refuses just now   redis_check what it lacks, said at the start
    schema      which version of our records  basin       bodies that come in, bounded
    keys        every key in Redis            errors      what can go wrong
    forms/      an answer as JSON, as events  codec       what was said, as bytes
    model       the values that travel        observe     every metric and log event
    heads       HTTP headers as bytes         logs        set up, with no error's text
    prices      what tokens cost              roles       who may do what
    clock       time, from outside            deadline    a moment as a block of code
    rank        the order of all that waits
    units       durations and sizes           lockfile    one daemon to a place
    background  tasks beside the calls        classes     models that share limits
    labels      what a call is for            owner       whose a thing is
    sockets     where unix sockets lie        notify      systemd
    crowd       all that waits, counted       nudges      events by name
    values      frozen, and quickly made      timeouts    a bound on a block of code
    insist      what cannot do without Redis
    share       one bound for many callers    pace        what is carried has to get on
    records     those that cannot be read     seal        who wrote what is in Redis
    aside       a process for heavy work      guard       no cores, no open files, no texts
    room        how many connections fit      weight      what a body holds
    memory      given back after a flood      cipher      a seal that hides
    globs       those that callers send       unpacking   what comes packed
    allowance   of a turn of the loop         servers     ways to Redis, or to its primary
    sentinels   who know the primary          sure        what no failover may lose
    rations     no log is flooded             deaths      when a server is started again
    disk        can it be written             disconnect  a caller that has gone
    trail       a call's id, tries and waits  few         names that metrics may have
    trace       a call's place in a trace     instruments counters, histograms, gauges
    posting     to Redis once a second        v1/         generated from protos/

A stage becomes a folder when it has a port and adapters. Scripts in Lua lie beside the module that runs them.
"""
