"""
The configuration: one TOML file, each key of it overridable by the environment, read into frozen values.

    kinds.py        how single values are spelled: durations, sizes, addresses, secrets
    tables.py       the keys and their defaults, as structs
    environment.py  the environment, laid over the file
    reading.py      both into `Settings`, with every problem named at once (in the words of wording.py)
    checks.py       what each value allows but all of them together do not; and what is allowed but doubtful
    transport.py    who may listen where, and what goes over the network in the clear
    places.py       where things lie: the state and runtime directories, sockets, upstream's key
    toml.py         settings as TOML again

Only `main`, `daemon`, `making` and `wiring` look in here; a stage is told what it needs and cannot reach for a setting.
"""

from headrace.config.checks import warnings
from headrace.config.places import Keys, api_key, keys, peppers, redis_url, resolve, runtime_dir
from headrace.config.reading import find_file, load
from headrace.config.sealing import seal
from headrace.config.tables import Settings, callers, classes, lanes, prices, settings_hash

__all__ = [
    "Keys",
    "Settings",
    "api_key",
    "callers",
    "classes",
    "find_file",
    "keys",
    "lanes",
    "load",
    "peppers",
    "prices",
    "redis_url",
    "resolve",
    "runtime_dir",
    "seal",
    "settings_hash",
    "warnings",
]
