#!/bin/sh
# Before a removal or an upgrade: deb says "remove" or "upgrade", rpm how many versions there will be.
set -e

forget_compiled() {
    # Made by afterinstall.sh, so not known to the package manager.
    find /opt/headrace/lib -name __pycache__ -type d -prune -exec rm -rf {} +
}

case "$1" in
    remove | 0)
        if [ -d /run/systemd/system ]; then
            systemctl disable --now headrace.service headrace-worker.service || true
        fi
        forget_compiled
        ;;
    # With rpm the new version is there already, and compiled.
    upgrade) forget_compiled ;;
esac
