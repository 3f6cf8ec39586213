"""The alerts: tested by Prometheus' own tool, each with a section of the runbook, and none about a metric that there is not."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from tests.packaged.place import ROOT

from conftest import missing
from headrace import observe
from headrace.instruments import Instrument

PLACE = ROOT / "deploy" / "prometheus"
RULES = (PLACE / "rules.yml").read_text()
OURS = {value.name for value in vars(observe).values() if isinstance(value, Instrument)}


def named(text: str) -> set[str]:
    """Return our metrics that a text names, whatever part of a histogram is asked for."""
    found = set(re.findall(r"\bheadrace_\w+", text))
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in found}


def test_rules() -> None:
    """Each fires when it should, and only then, by `promtool test rules`; one that is bent is found, so it does look."""
    tool = shutil.which("promtool") or missing("promtool")
    done = subprocess.run([tool, "test", "rules", "rules.test.yml"], cwd=PLACE, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.long
def test_bent(tmp_path) -> None:
    """An alert with bounds that nothing reaches does not pass the tests: they are no shrug."""
    tool = shutil.which("promtool") or missing("promtool")
    shutil.copy(PLACE / "rules.test.yml", tmp_path)
    head, *alerts = re.split(r"(?=- alert:)", RULES)
    for number, alert in enumerate(alerts):
        bent = re.sub(r"(> [\d.]+|== [01])$", "> 1e9", alert, flags=re.M)
        (tmp_path / "rules.yml").write_text("".join((head, *alerts[:number], bent, *alerts[number + 1 :])))
        done = subprocess.run([tool, "test", "rules", "rules.test.yml"], cwd=tmp_path, capture_output=True, check=False)
        assert done.returncode == 1, alert


def test_runbook() -> None:
    """Each alert has its section, and each section its alert."""
    sections = re.findall(r"^## (Headrace\w+)$", (ROOT / "docs" / "runbook.md").read_text(), re.M)
    assert sections == re.findall(r"alert: (\w+)", RULES)
    assert re.findall(r"runbook: (.*)", RULES) == [f"docs/runbook.md#{name.lower()}" for name in sections]


def test_metrics() -> None:
    """Rules, dashboard and runbook name only metrics that a daemon has."""
    for path in (PLACE / "rules.yml", ROOT / "deploy/grafana/headrace.json", ROOT / "docs/runbook.md"):
        assert named(path.read_text()) <= OURS, path
