"""The dashboard: what it is made of, and what a real Prometheus answers to each of its queries."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from deploy import dashboard
from headrace_client import Headrace, HeadraceError
from tests.packaged.place import ROOT, Place, serving_at

from conftest import missing
from daemon_process import HEADRACE

SHIPPED = ROOT / "deploy" / "grafana" / "headrace.json"
QUESTION = {"role": "user", "content": "What is a headrace?"}
# What nothing happens of in a minute of good weather.
QUIET = {"Gates of overloaded models"}


def queries() -> list[tuple[str, str]]:
    """Return each query with its panel's title."""
    panels = json.loads(SHIPPED.read_text())["panels"]
    return [(panel["title"], target["expr"]) for panel in panels for target in panel.get("targets", [])]


def test_is_made() -> None:
    """The file is what `make dashboard` writes; no two panels lie on each other, or share a number."""
    shipped = json.loads(SHIPPED.read_text())
    assert shipped == dashboard.dashboard()
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in shipped["panels"]]
    assert len(set(places)) == len({panel["id"] for panel in shipped["panels"]}) == len(places)


class Prometheus:
    """One that scrapes, and is asked."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/api/v1"

    def ask(self, query: str) -> list[dict[str, Any]]:
        """Return the result of a query now; raises if it is none."""
        address = f"{self._url}/query?{urllib.parse.urlencode({'query': query})}"
        with urllib.request.urlopen(address, timeout=10) as reply:
            said = json.load(reply)
        assert said["status"] == "success", said
        return list(said["data"]["result"])

    def until(self, query: str, *, within: float = 60) -> None:
        """Wait until a query has a result."""
        give_up = time.monotonic() + within
        while True:
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                if self.ask(query):
                    return
            assert time.monotonic() < give_up, query
            time.sleep(0.2)


@contextlib.contextmanager
def scraping(target: str, directory: Path) -> Iterator[Prometheus]:
    """Run a Prometheus that scrapes *target* each second and holds the rules, as the runbook says."""
    tool = shutil.which("prometheus") or missing("prometheus")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    configuration = directory / "prometheus.yml"
    configuration.write_text(
        f"global: {{scrape_interval: 1s, evaluation_interval: 1s}}\n"
        f"rule_files: [{ROOT}/deploy/prometheus/rules.yml]\n"
        f"scrape_configs:\n  - job_name: headrace\n    static_configs:\n      - targets: ['{target}']\n"
    )
    command = [tool, f"--config.file={configuration}", f"--storage.tsdb.path={directory}/data"]
    with (
        open(directory / "log", "w") as log,
        subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log) as process,
    ):
        try:
            yield Prometheus(port)
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A daemon with limits: one that is wide, and one that soon has nothing left."""
    wide = {"name": "org", "requests_per_minute": 100_000}
    narrow = {"name": "reports", "match": {"caller": "reports"}, "requests_per_minute": 20, "burst": "3s"}
    with serving_at(HEADRACE, tmp_path_factory.mktemp("p"), LIMIT=json.dumps([wide, narrow])) as running:
        yield running


def calls(place: Place) -> None:
    """Make calls of all kinds: asked, kept, refused, submitted."""
    with Headrace(place.grpc, caller="checkout") as client:
        for number in range(4):
            client.messages.create(model="claude-haiku-4-5", max_tokens=20, messages=[QUESTION | {"content": f"no {number}"}])
            client.messages.create(model="claude-haiku-4-5", max_tokens=20, messages=[QUESTION])
        with contextlib.suppress(HeadraceError):
            client.messages.create(model="no-such-model", max_tokens=20, messages=[QUESTION])
        with contextlib.suppress(HeadraceError):
            narrow = client.with_options(caller="reports", timeout=2)
            while True:  # one is granted, one waits, and one is refused
                narrow.messages.create(model="claude-haiku-4-5", max_tokens=20, messages=[QUESTION], cache_control="no-store")
        ticket = client.messages.submit(model="claude-haiku-4-5", max_tokens=20, messages=[QUESTION | {"content": "later"}])
        client.tickets.wait(ticket.id)


@pytest.mark.long
def test_queries(place: Place, tmp_path: Path) -> None:
    """Each query is one that Prometheus takes, and each has an answer once there were calls."""
    with scraping(place.http.removeprefix("http://"), tmp_path) as prometheus:
        calls(place)
        prometheus.until('sum(headrace_calls_total{job="headrace"}) > 0')
        give_up = time.monotonic() + 60
        while time.monotonic() < give_up:
            calls(place)
            told = {(title, query): prometheus.ask(filled(query)) for title, query in queries()}
            unanswered = {title for (title, _), result in told.items() if not result} - QUIET
            if not unanswered:
                break
            time.sleep(1)
        assert not unanswered
        assert not prometheus.ask('ALERTS{alertname="HeadraceDown", alertstate="firing"}')


def filled(query: str) -> str:
    """Return a query as Grafana asks it, all chosen."""
    for name, value in {"$__rate_interval": "15s", "$job": ".+", "$instance": ".+"}.items():
        query = query.replace(name, value)
    return query
