"""What a reload changes is named: what is taken at once, and what waits for a restart; and never a value."""

from __future__ import annotations

from headrace import config
from headrace.config.changes import Changes, changes

HOME = {"HOME": "/home/ada"}


def load(tmp_path, text):
    path = tmp_path / "config.toml"
    path.write_text(text)
    return config.load(path, HOME)


def test_changes(tmp_path):
    """By their names: limits and callers one by one, other keys each."""
    one = load(
        tmp_path, '[[limit]]\nname = "a"\nconcurrency = 1\n[[limit]]\nname = "gone"\nconcurrency = 1\n[caller.x]\nweight = 2'
    )
    other = load(
        tmp_path,
        '[listen]\nhttp = "127.0.0.1:1"\n[cache]\nttl = "2h"\n[log]\nslow = "1s"\n[upstream]\napi_key = "sk-secret"\n'
        '[[limit]]\nname = "a"\nconcurrency = 2\n[[limit]]\nname = "new"\nconcurrency = 1\n[caller.x]\nweight = 3\n[caller.y]',
    )  # fmt: skip
    found = changes(one, one, other)
    assert found.taken == ("caller.x", "caller.y", "limit[a]", "limit[gone]", "limit[new]", "log.slow", "upstream.api_key")
    assert found.waiting == ("cache.ttl", "listen.http")
    assert "sk-secret" not in repr(found)


def test_until_the_restart(tmp_path):
    """What waits for a restart is named at each reload until then; what was taken is not named again."""
    one = load(tmp_path, "")
    other = load(tmp_path, '[cache]\nttl = "2h"\n[log]\nslow = "1s"')
    assert changes(one, other, other) == Changes((), ("cache.ttl",))
    assert changes(one, other, one) == Changes(("log.slow",), ())
