"""The units: what systemd itself says of them, and the daemon inside the sandbox that they describe."""

import grp
import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from conftest import missing
from daemon_process import HEADRACE, environment, headrace, serving

SYSTEMD = Path(__file__).parents[2] / "systemd"
UNITS = ["headrace", "headrace-worker"]


@pytest.fixture
def analyze():
    """Run systemd-analyze."""
    tool = shutil.which("systemd-analyze") or missing("systemd-analyze")

    def run(*arguments):
        return subprocess.run([tool, *arguments], capture_output=True, text=True, timeout=30, check=False)

    return run


@pytest.fixture(params=UNITS)
def unit(request, tmp_path):
    """A copy of the unit that runs the program that is installed here."""
    text = (SYSTEMD / f"{request.param}.service").read_text()
    copy = tmp_path / f"{request.param}.service"
    copy.write_text(text.replace("/opt/headrace/bin/headrace", HEADRACE))
    assert HEADRACE in copy.read_text()
    return str(copy)


def settings(text):
    """Return the settings of a unit as a list of pairs."""
    return [tuple(line.split("=", 1)) for line in text.splitlines() if re.match(r"[A-Z]\w*=", line)]


def test_verify(analyze, unit):
    """systemd finds nothing to complain of."""
    done = analyze("verify", unit)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_security(analyze, unit):
    """The exposure is at most 2.0 of 10."""
    done = analyze("security", "--offline=true", "--threshold=20", unit)
    assert done.returncode == 0, done.stdout.splitlines()[-1]
    assert float(re.search(r"exposure level for \S+: ([\d.]+)", done.stdout)[1]) <= 2.0


def test_packaged_configuration():
    """Commands outside of the service find its state and sockets: the packages' configuration names the unit's places."""
    unit = dict(settings((SYSTEMD / "headrace.service").read_text()))
    said = tomllib.loads((SYSTEMD.parent / "deploy" / "package" / "config.toml").read_text())
    assert said["state"]["dir"] == f"/var/lib/{unit['StateDirectory']}"
    sockets = [address for name in ("grpc", "admin") for address in said["listen"][name] if address.startswith("unix:")]
    assert {Path(address).parent for address in sockets} == {Path(f"unix:/run/{unit['RuntimeDirectory']}")}


def test_units_agree():
    """The worker has the daemon's sandbox, but for what it has no socket for."""
    daemon, worker = (set(settings((SYSTEMD / f"{name}.service").read_text())) for name in UNITS)
    assert {key for key, _ in worker - daemon} <= {
        "Description", "ExecStart", "Group", "RuntimeDirectory", "RuntimeDirectoryMode",
    }  # fmt: skip
    assert {key for key, _ in daemon - worker} - {key for key, _ in worker - daemon} == {
        "Environment", "ExecReload", "SupplementaryGroups", "SystemCallFilter", "StateDirectory", "StateDirectoryMode",
    }  # fmt: skip


def test_sysusers(tmp_path):
    """systemd-sysusers makes the user and the group, and joins them, where they are not there yet."""
    tool = shutil.which("systemd-sysusers") or missing("systemd-sysusers")
    source = str(SYSTEMD / "headrace.sysusers.conf")
    if "--dry-run" not in subprocess.run([tool, "--help"], capture_output=True, text=True, check=True).stdout:
        missing("a systemd-sysusers with --dry-run (250)")
    command = [tool, "--dry-run", f"--root={tmp_path}", source]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "group 'headrace-clients'" in done.stderr + done.stdout
    assert "user 'headrace'" in done.stderr + done.stdout


# The sandbox, as far as a process can put it on by itself: no new privileges, no memory both writable and executable, and
# the unit's system calls.
SANDBOX = """
import ctypes, os, sys
libc, seccomp = ctypes.CDLL(None, use_errno=True), ctypes.CDLL("libseccomp.so.2")
assert libc.prctl(38, 1, 0, 0, 0) == 0, "no new privileges"
if libc.prctl(65, 1, 0, 0, 0) != 0:
    sys.exit(77)  # an old kernel
seccomp.seccomp_init.restype = ctypes.c_void_p
seccomp.seccomp_rule_add.argtypes = (ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint)
filter = seccomp.seccomp_init(0x00050001)  # all else ends in EPERM
for name in sys.argv[1].split(","):
    number = seccomp.seccomp_syscall_resolve_name(name.encode())
    if number >= 0:
        assert seccomp.seccomp_rule_add(filter, 0x7fff0000, number, 0) == 0, name
assert seccomp.seccomp_load(ctypes.c_void_p(filter)) == 0
os.execv(sys.argv[2], sys.argv[2:])
"""


def system_calls(analyze, text):
    """Return the system calls that a unit allows, put together as systemd does: line by line."""
    allowed = set()
    for line in (value for key, value in settings(text) if key == "SystemCallFilter"):
        names = {name for word in line.removeprefix("~").split() for name in expand(analyze, word)}
        allowed = allowed - names if line.startswith("~") else allowed | names
    return allowed


def expand(analyze, word):
    """Return the system calls of a set, those of the sets in it included."""
    if not word.startswith("@"):
        return {word}
    lines = [line.strip() for line in analyze("syscall-filter", word).stdout.splitlines()[1:]]
    return {name for line in lines if line and not line.startswith("#") for name in expand(analyze, line)}


def try_sandbox(calls):
    """Say so when this machine has not what the sandbox needs."""
    done = subprocess.run([sys.executable, "-c", SANDBOX, calls, "/bin/true"], capture_output=True, text=True, check=False)
    if done.returncode == 77:
        missing("a kernel with PR_SET_MDWE (6.3)")
    if "libseccomp" in done.stderr:
        missing("libseccomp.so.2")
    assert done.returncode == 0, done.stderr


def test_daemon_in_the_sandbox(analyze, tmp_path_factory):
    """The daemon, its Valkey and its socket with the clients' group live with what the unit allows."""
    calls = ",".join(sorted(system_calls(analyze, (SYSTEMD / "headrace.service").read_text())))
    assert "chown" in calls
    assert "ptrace" not in calls
    try_sandbox(calls)
    directory = tmp_path_factory.mktemp("s")
    group = grp.getgrgid(os.getegid()).gr_name
    environ = environment(
        directory,
        HEADRACE_LISTEN__GRPC='["unix:headrace.sock"]',
        HEADRACE_LISTEN__SOCKET_GROUP=group,
        ANTHROPIC_API_KEY="k",
        PYTHONWARNINGS="error::ResourceWarning",
    )
    with serving(environ, [sys.executable, "-c", SANDBOX, calls, HEADRACE, "serve"]) as daemon:
        daemon.hear("STATUS=serving")
        socket = (directory / "headrace.sock").stat()
        assert (stat.S_IMODE(socket.st_mode), socket.st_gid) == (0o660, os.getegid())
        assert "valkey.started" in daemon.log
        assert "redis" in headrace("cache", "stats", environ=environ).stdout
        assert daemon.stop() == 0
        assert '"error"' not in daemon.log
