"""A reload says what it changed and what needs a restart, and systemd, the log and the metrics hear of one that was refused."""

from __future__ import annotations

import json
import signal
import urllib.request
from pathlib import Path

import pytest

from daemon_process import environment, headrace, serving
from fleet import addresses

BEFORE = '[cache]\nttl = "1h"\n[[limit]]\nname = "org"\nrequests_per_minute = 60\n'


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text(BEFORE)
    return path


@pytest.fixture
def served(tmp_path_factory, config):
    environ = environment(
        tmp_path_factory.mktemp("r"),
        HEADRACE_CONFIG=str(config),
        HEADRACE_UPSTREAM__API_KEY="k",
        HEADRACE_LISTEN__GRPC='["127.0.0.1:0"]',
    )
    with serving(environ) as served:
        yield served


def events(served, name):
    lines = [json.loads(line) for line in served.log.splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == name]


def metric(served, name):
    with urllib.request.urlopen(f"{addresses(served)[-1]}/metrics", timeout=10) as page:
        return next(float(line.split()[-1]) for line in page.read().decode().splitlines() if line.startswith(f"{name} "))


def test_says_what(served, config):
    """What is taken, by name; what is not is a warning, and systemd's status line."""
    config.write_text(BEFORE.replace("1h", "2h").replace("60", "90") + "[caller.new]\n")
    served.process.send_signal(signal.SIGHUP)
    served.hear("STATUS=serving; a restart is needed for cache.ttl")
    [reloaded] = events(served, "config.reloaded")
    assert reloaded["changed"] == ["caller.new", "limit[org]"]
    [waits] = events(served, "config.needs_restart")
    assert (waits["keys"], waits["level"]) == (["cache.ttl"], "warning")
    config.write_text(BEFORE)
    served.process.send_signal(signal.SIGHUP)
    served.hear("STATUS=serving")
    assert len(events(served, "config.needs_restart")) == 1


def test_refused(served, config):
    """A mistake changes nothing; the status line, the metric and the log say so, until a reload is taken."""
    config.write_text(BEFORE.replace("ttl", "tll"))
    assert headrace("config", "check", environ=served.environ).returncode == 2  # what `systemctl reload` runs first
    served.process.send_signal(signal.SIGHUP)
    served.hear(f"STATUS=serving; the last reload was refused: {config}: cache.tll: no such key; did you mean cache.ttl?")
    assert len(events(served, "config.rejected")) == 1
    served.wait(lambda: metric(served, "headrace_config_last_reload_successful") == 0)
    config.write_text(BEFORE)
    served.process.send_signal(signal.SIGHUP)
    served.wait(lambda: metric(served, "headrace_config_last_reload_successful") == 1)


def test_key_in_the_file(served, config):
    """A key that stands in the configuration itself is taken at a reload, as one in its file is."""
    config.write_text(BEFORE + '[auth]\nrequired = true\npepper_file = "/nope/pepper"\n')
    served.process.send_signal(signal.SIGHUP)
    served.hear("READY=1")
    [rejected] = events(served, "config.rejected")
    assert "auth.pepper_file: /nope/pepper" in rejected["error"]


def test_unit_checks_first():
    """systemd looks at the configuration before it tells the daemon."""
    unit = (Path(__file__).parents[2] / "systemd" / "headrace.service").read_text()
    reloads = [line.partition("=")[2] for line in unit.splitlines() if line.startswith("ExecReload=")]
    assert reloads == ["/opt/headrace/bin/headrace config check", "/bin/kill -HUP $MAINPID"]
