"""
deb and rpm on this very machine: installed, run as the unit would run it, upgraded, removed; then nothing of them is left.

systemd itself does not run where CI does. Its part is played: the unit's user and groups, its directories with their modes, its
credential, and its notification socket.
"""

from __future__ import annotations

import grp
import os
import pwd
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from headrace_client import Headrace
from tests.packaged.place import first_answer, simulating

from conftest import missing
from daemon_process import Served, serving

pytestmark = pytest.mark.long
PLACES = [Path(name) for name in ("/opt/headrace", "/etc/headrace", "/var/lib/headrace", "/run/headrace", "/usr/bin/headrace")]
UNITS = [f"/usr/lib/systemd/system/{name}.service" for name in ("headrace", "headrace-worker")]
SHARED = [
    "bash-completion/completions/headrace", "zsh/*/_headrace", "fish/vendor_completions.d/headrace.fish",
    *(f"doc/headrace/{name}"
      for name in ("LICENSE", "NOTICE", "THIRD-PARTY.md", "config.example.toml", "docs/runbook.md", "docs/operate/state.md")),
    "headrace/prometheus/rules.yml", "headrace/grafana/headrace.json", "man/man1/headrace.1",
]  # fmt: skip
AS_USER = ["setpriv", "--reuid", "headrace", "--regid", "headrace", "--clear-groups", "headrace"]
RPM = ["rpm", "--force-debian", "--nodeps"]


def run(*command: str, ends: int = 0) -> str:
    """Run a program as root with a bare environment, and return what it said."""
    environ = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environ)
    assert done.returncode == ends, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def system() -> Iterator[None]:
    """This machine, if it has no Headrace: what a test brings onto it goes again, whatever becomes of the test."""
    if os.geteuid() != 0 or not shutil.which("dpkg"):
        pytest.skip("installs into the system: only as root, on Debian")
    if any(place.exists() for place in PLACES):
        pytest.skip("there is a Headrace on this machine, which is left alone")
    yield
    subprocess.run(["dpkg", "--purge", "headrace"], capture_output=True, check=False)
    for place in PLACES:
        shutil.rmtree(place, ignore_errors=True)
    for command in (("userdel", "headrace"), ("groupdel", "headrace"), ("groupdel", "headrace-clients")):
        subprocess.run(command, capture_output=True, check=False)


def as_the_unit(unit: str, key: str, upstream: str, directory: Path) -> tuple[list[str], dict[str, str]]:
    """Return command and environment as systemd makes them of the unit, once its directories are there."""
    said = dict(line.split("=", 1) for line in Path(unit).read_text().splitlines() if re.match(r"[A-Z]\w+=", line))
    user, group, more = said["User"], said["Group"], said["SupplementaryGroups"]
    owner = pwd.getpwnam(user).pw_uid, grp.getgrnam(group).gr_gid
    for place, mode in (("/var/lib/headrace", said["StateDirectoryMode"]), ("/run/headrace", said["RuntimeDirectoryMode"])):
        Path(place).mkdir()
        os.chown(place, *owner)
        Path(place).chmod(int(mode, 8))
    credentials = directory / "credentials"
    credentials.mkdir()
    (credentials / "anthropic_api_key").write_text(key)
    for path in (directory, *directory.parents[:2]):
        path.chmod(path.stat().st_mode | 0o011)  # pytest's own folders are root's alone
    drop = f"setpriv --reuid {user} --regid {group} --groups {more} --no-new-privs --inh-caps=-all --bounding-set=-all"
    enter = 'chmod 0711 "${NOTIFY_SOCKET%/*}" && chmod 0666 "$NOTIFY_SOCKET"'
    command = ["sh", "-euc", f"{enter}; umask {said['UMask']}; cd /; exec {drop} {said['ExecStart']}"]
    environ = {
        "PATH": "/usr/bin:/bin",
        "STATE_DIRECTORY": "/var/lib/headrace",
        "RUNTIME_DIRECTORY": "/run/headrace",
        "CONFIGURATION_DIRECTORY": "/etc/headrace",
        "CREDENTIALS_DIRECTORY": str(credentials),
        "HEADRACE_UPSTREAM__BASE_URL": upstream,
        # As a drop-in might say, so that another daemon may run beside this test.
        "HEADRACE_LISTEN__GRPC": '["unix:/run/headrace/headrace.sock"]',
        "HEADRACE_LISTEN__HTTP": "127.0.0.1:0",
        "HEADRACE_LISTEN__ADMIN": '["unix:/run/headrace/admin.sock"]',
    }
    return command, environ


def is_the_users(served: Served) -> bool:
    """Whether a process is the service's user."""
    return os.stat(f"/proc/{served.process.pid}").st_uid == pwd.getpwnam("headrace").pw_uid


def looks_right() -> None:
    """What both packages bring: a program, units that systemd takes, a configuration that is right, for its group to read."""
    said = run("/usr/bin/headrace", "--version")
    assert re.search(r"commit [0-9a-f]{12}\)\nPython 3\.\d+\.\d+\nValkey 9", said), said
    if shutil.which("systemd-analyze"):
        assert run("systemd-analyze", "verify", *UNITS) == ""
    configuration = Path("/etc/headrace/config.toml").stat()
    assert (stat.S_IMODE(configuration.st_mode), grp.getgrgid(configuration.st_gid).gr_name) == (0o640, "headrace")
    # Its directories are systemd's to make, when it starts for the first time: until then there is only the file to look at.
    assert "ok" in run(*AS_USER, "config", "check", "--only-file")
    for name in SHARED:
        assert any(place.read_bytes() for place in Path("/usr/share").glob(name)), name


def test_deb(built, system, tmp_path):
    """From nothing to an answer over the clients' socket; an upgrade keeps what was edited; a purge leaves nothing."""
    (package,) = built("packages").glob("*.deb")
    run("dpkg", "--install", str(package))
    looks_right()
    with simulating("/usr/bin/headrace") as upstream:
        command, environ = as_the_unit(UNITS[0], "sk-any", upstream, tmp_path)
        with serving(environ, command, within=60) as served:
            assert is_the_users(served)
            socket = Path("/run/headrace/headrace.sock").stat()
            assert (stat.S_IMODE(socket.st_mode), grp.getgrgid(socket.st_gid).gr_name) == (0o660, "headrace-clients")
            with Headrace("unix:/run/headrace/headrace.sock", caller="checkout") as client:
                question = {"role": "user", "content": "What is a headrace?"}
                answer = client.messages.create(model="claude-haiku-4-5", max_tokens=20, messages=[question])
                first_answer(answer.source, answer.text)
            page = run("curl", "-sS", "--fail", "--unix-socket", "/run/headrace/admin.sock", "http://localhost/admin/budgets")
            assert "Budgets" in page
            run(*AS_USER, "keys", "create", "checkout")
            assert "checkout" in run(*AS_USER, "keys", "list")
            assert not Path("/var/lib/headrace/.local").exists()  # they asked the daemon's own Valkey
            assert served.stop() == 0
    configuration = Path("/etc/headrace/config.toml")
    configuration.write_text(configuration.read_text() + "# ours\n")
    run("dpkg", "--install", str(package))
    assert configuration.read_text().endswith("# ours\n")
    run("dpkg", "--remove", "headrace")
    assert [str(place) for place in PLACES if place.exists()] == ["/etc/headrace", "/var/lib/headrace", "/run/headrace"]
    run("dpkg", "--purge", "headrace")
    assert [str(place) for place in PLACES if place.exists()] == ["/run/headrace"]  # systemd's to remove, when the unit stops


def test_rpm(built, system, tmp_path):
    """The same files, in a database of packages of its own; they verify, and removing leaves what was edited."""
    if not shutil.which("rpm"):
        missing("rpm")
    (package,) = built("packages").glob("*.rpm")
    (deb,) = built("packages").glob("*.deb")
    database = ["--dbpath", str(tmp_path / "rpmdb")]
    run(*RPM, *database, "--install", str(package))
    looks_right()
    assert run("rpm", *database, "--verify", "--nodeps", "--nogroup", "headrace") == ""
    rows = run("dpkg-deb", "--contents", str(deb)).splitlines()
    theirs = {row.split()[-1] for row in rows if not row.startswith(("d", "l"))}
    ours = {line for line in run("rpm", "--query", "--list", "--package", str(package)).splitlines() if Path(line).is_file()}
    assert {f".{name}" for name in ours if not Path(name).is_symlink()} == theirs
    run(*RPM, *database, "--erase", "headrace")
    assert [str(place) for place in PLACES if place.exists()] == []
