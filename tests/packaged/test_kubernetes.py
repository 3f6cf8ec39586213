"""
The manifests: what Kubernetes' own schemas say of them, and what they promise.

A PodMonitor is the operator's, whose schema is in no package that could be pinned: it is left out.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from tests.packaged.place import ROOT, Place

from conftest import missing
from daemon_process import HEADRACE, environment, headrace

PLACE = ROOT / "deploy" / "kubernetes"
TOOLS = ROOT / ".venv-tools"
KUBERNETES = "1.37.0"  # the newest that the pinned schemas have


def schemas(directory: Path) -> str:
    """Lay out the schemas of the pinned package as kubeconform reads them, and return where it finds them."""
    (kept,) = TOOLS.glob(f"lib/*/site-packages/kubernetes_validate/kubernetes-json-schema/v{KUBERNETES}-local-strict")
    for kind in ("daemonset-apps-v1", "networkpolicy-networking-v1", "_definitions"):
        text = (kept / f"{kind}.json").read_text().replace("/api/_definitions.json", f"file://{directory}/_definitions.json")
        (directory / f"{kind}.json").write_text(text)
    return f"{directory}/{{{{ .ResourceKind }}}}{{{{ .KindSuffix }}}}.json"


@pytest.mark.long
def test_schemas(tmp_path: Path) -> None:
    """kubeconform, strictly: no field that there is not, none of a wrong type. A wrong one is found, so it does look."""
    tool = TOOLS / "bin" / "kubeconform"
    if not tool.exists():
        missing("kubeconform (make packaged)")
    command = [tool, "-strict", "-summary", "-skip", "Kustomization,PodMonitor", "-kubernetes-version", KUBERNETES]
    command += ["-schema-location", schemas(tmp_path)]
    done = subprocess.run([*command, *PLACE.glob("*.yaml")], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Valid: 2, Invalid: 0, Errors: 0" in done.stdout
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text((PLACE / "daemonset.yaml").read_text().replace("terminationGracePeriodSeconds: 90", "grace: 90"))
    assert subprocess.run([*command, wrong], capture_output=True, check=False, timeout=60).returncode == 1


def test_promises() -> None:
    """Nobody is root but the one that hands the node's folders over; nothing is written outside of what is mounted."""
    text = (PLACE / "daemonset.yaml").read_text()
    assert text.count("readOnlyRootFilesystem: true") == text.count("image: headrace") == 2
    assert text.count("allowPrivilegeEscalation: false") == text.count("drop: [ALL]") == 2
    assert text.count("runAsUser: 0") == 1
    assert "hostPath: {path: /run/headrace" in text
    assert "preStop" in text


@pytest.mark.long
def test_pre_stop(place: Place) -> None:
    """What a pod does before it is told to end: it is out of service, and has finished what it had."""
    (command,) = re.findall(r"preStop:.*?-c, '(.*?)'\]", (PLACE / "daemonset.yaml").read_text(), re.S)
    here = {"HOSTNAME": socket.gethostname(), "PATH": f"{Path(HEADRACE).parent}:{os.environ['PATH']}"}
    environ = place.served.environ | here
    done = subprocess.run(["sh", "-c", command], env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    ready = ["curl", "-sS", f"{place.http}/readyz"]
    assert "the pod ends" in subprocess.run(ready, capture_output=True, text=True, check=True, timeout=20).stdout


def test_listed() -> None:
    """kustomization.yaml names the files that there are."""
    named = set(re.findall(r"- (\w+\.yaml)", (PLACE / "kustomization.yaml").read_text()))
    assert named | {"kustomization.yaml"} == {path.name for path in PLACE.glob("*.yaml")}


def test_configuration(tmp_path: Path) -> None:
    """The configuration that pods get is right, and its socket lies where the node's folder is mounted."""
    (tmp_path / "redis_password").write_text("p")
    password = {"HEADRACE_REDIS__PASSWORD_FILE": str(tmp_path / "redis_password")}
    done = headrace(
        "config", "check", "--only-file", "--config", str(PLACE / "config.toml"), environ=environment(tmp_path) | password
    )
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = tomllib.loads((PLACE / "config.toml").read_text())
    assert said["drain"]["delay"] == "3s"
    assert said["listen"]["grpc"] == ["unix:/run/headrace/headrace.sock"]
