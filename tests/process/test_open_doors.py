"""A daemon that would be open to other machines: it does not start, or says at each start that it is meant."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from daemon_process import environment, headrace, serving

FAR = {"HEADRACE_LISTEN__GRPC": "[]", "HEADRACE_LISTEN__HTTP": "0.0.0.0:0"}
KEYS = {"HEADRACE_AUTH__REQUIRED": "true"}


@pytest.mark.parametrize(("settings", "why"), [({}, "can spend your key"), (KEYS, "unencrypted")])
def test_open_door(tmp_path: Path, settings: dict[str, str], why: str) -> None:
    """Without keys, or with keys in the clear, it ends with exit code 2; `listen.insecure` is a warning each time."""
    environ = environment(tmp_path, **FAR | settings)
    for command in (("serve",), ("config", "check")):
        done = headrace(*command, environ=environ)
        assert done.returncode == 2
        assert "listen: 0.0.0.0:0" in done.stderr
        assert why in done.stderr
        assert "listen.insecure = true" in done.stderr
    for _ in range(2):
        with serving(environ | {"HEADRACE_LISTEN__INSECURE": "true"}) as served:
            warned = [json.loads(line) for line in served.log.splitlines() if '"config.doubtful"' in line]
        assert [why in line["warning"] for line in warned if "listen.insecure" in line["warning"]] == [True]
