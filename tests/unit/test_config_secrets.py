"""No secret comes out of the configuration, wherever it was written by mistake."""

import json
import re
import time
import tomllib
from typing import get_origin

import pytest

from config_parts import HOME, problems
from headrace import config
from headrace.config import toml
from headrace.config.environment import known_keys
from headrace.config.kinds import hide_password
from headrace.config.tables import Settings, fields_of
from headrace.errors import ConfigError

SECRET = "hunter2"


@pytest.mark.parametrize(
    "text",
    [
        "[redis]\npassword = 'hunter2'",
        "[redis]\nssl_key = 'hunter2'",
        "[upstream]\nkey = 'hunter2'",
        "[upstream]\napi_keys = ['hunter2']",
        "[upstrem]\napi_key = 'hunter2'",
        "[upstream.api_key]\nvalue = 'hunter2'",
        "[upstream]\napi_key = ['hunter2']",
        "upstream = 'hunter2'",
        "upstream = ['hunter2']",
        "api_key = 'hunter2'",
        "[caller.a]\nsecret = 'hunter2'",
        "caller = 'hunter2'",
        "caller.a = 'hunter2'",
        "[[limit]]\nname = 'a'\ntoken = 'hunter2'",
        "limit = ['hunter2']",
        "[redis]\nurl = 'http://h:6379?ssl_password=hunter2'",
        "[redis]\nurl = 'redis:/:hunter2@h'",
        "[redis]\nurl = ['redis://:hunter2@h']",
        "[redis]\nurl = 'redis://ada:hun?hunter2@h'",
        "[redis]\nurl = 'redis://ada:hunter2?password=x@h'",
        "[upstream]\nproxy = 'socks://hunter2@proxy:1'",
        "[upstream]\nbase_url = 'https://h/?key=hunter2'",
        "[auth]\n'sk-ant-hunter2' = 1",
        "[caller.'sk-ant-hunter2 ']\nweight = 1",
        "[caller.'sk-ant-hunter2']\nwait = 1",
    ],
)
def test_mistaken(write, text):
    """An error names where a value is wrong and not the value, unless that can be no secret."""
    assert SECRET not in problems(write(text))


def _tables() -> list[str]:
    """Return how every table there is begins, those of lists and of names among them."""
    fixed = [f"[{name}]" for name, kind in fields_of(Settings).items() if isinstance(kind, type)]
    named = [f"[{name}.a]" for name, kind in fields_of(Settings).items() if get_origin(kind) is dict]
    return [*fixed, *named, "[[limit]]\nname = 'a'", "[[limit]]\nname = 'a'\n[limit.match]", "[price.a.tiers]"]


UNKNOWN = ("secret", "api_key", "password", "tls_key", "url", "ssl_password", "pepper", "token", "Api_Key", "api-key")
KNOWN = {("[upstream]", "api_key"), ("[listen]", "tls_key"), ("[redis]", "tls_key"), ("[redis]", "url")}


@pytest.mark.parametrize("table", _tables())
@pytest.mark.parametrize("value", ["'hunter2'", "['hunter2']", "{ a = 'hunter2' }", "[{ b = ['hunter2'] }]"])
def test_under_any_name_in_any_table(write, table, value):
    """In whichever table it stands, by whichever name that there is not: its value is not said."""
    for name in UNKNOWN:
        if (table, name) not in KNOWN:
            assert SECRET not in problems(write(f"{table}\n{name} = {value}")), name


PEM = "'''-----BEGIN PRIVATE KEY-----\nhunter2\n'''"


@pytest.mark.parametrize("key", [key for key in known_keys() if re.search(r"\..*(file|tls|key|url|proxy)", key)])
@pytest.mark.parametrize("value", ["'hunter2'", PEM, "['hunter2']", "{ a = 'hunter2' }"])
def test_in_the_place_of_a_file(write, key, value):
    """Nor is what was put where a file, a key or a URL is named."""
    table, _, name = key.rpartition(".")
    try:
        said = toml.dumps(config.load(write(f"[{table}]\n{name} = {value}"), HOME).redacted())
    except ConfigError as error:
        said = str(error)
    assert SECRET not in said


@pytest.mark.parametrize(
    "variable",
    ["UPSTREAM", "UPSTREAM__KEY", "UPSTREAM_API_KEY", "REDIS__PASSWORD", "REDIS", "CALLER", "CALLER__A", "LIMIT"],
)
def test_mistaken_in_the_environment(variable):
    """The same for what the environment says."""
    assert SECRET not in problems(None, {f"HEADRACE_{variable}": SECRET})


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hunter2@h:6379/0",
        "redis://ada:hunter2@h",
        "redis://hunter2@h",
        "rediss://h?ssl_password=hunter2&db=1",
        "rediss://h?db=1&ssl_keyfile_password=hunter2",
        "redis://h?p%61ssword=hunter2",
        "redis://h?PASSWORD=hunter2",
        "unix:///run/r.sock?password=hunter2",
        "unix://ada:hunter2@/run/r.sock",
        "redis://h?token=hunter2",
        "redis://ada:a@hunter2@h",
    ],
)
def test_shown(write, url):
    """A URL is shown without what may be a password, in its options, too, and can be read again."""
    settings = config.load(write(f"[redis]\nurl = {json.dumps(url)}"), HOME)
    text = toml.dumps(settings.redacted())
    assert SECRET not in text + repr(settings)
    assert tomllib.loads(text)["redis"]["url"].startswith(url[:5])


@pytest.mark.parametrize(
    "url", ["redis://h:6379/0", "rediss://h?ssl_cert_reqs=none&db=2", "unix:///run/r.sock?db=1", "off", ""]
)
def test_nothing_to_hide(url):
    """What has no secret in it is shown as it is."""
    assert hide_password(url) == url


@pytest.mark.parametrize("ahead", ["", "redis://u:p@h"])
def test_long(ahead):
    """However long what is no URL is, hiding takes a moment."""
    rest, began = "/:///" * 20_000, time.process_time()
    assert hide_password(ahead + rest) == ahead.replace(":p@", ":***@") + rest
    assert time.process_time() - began < 0.1
