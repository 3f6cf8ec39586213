#!/bin/sh
# After a removal. State and secrets stay until a purge (deb); rpm knows none, there they stay. So do user and groups, whose
# numbers may still own files.
set -e

if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || true
fi
if [ "$1" = purge ]; then
    rm -rf /var/lib/headrace /etc/headrace
fi
