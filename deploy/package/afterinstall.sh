#!/bin/sh
# After an installation or an upgrade: deb says "configure", rpm how many versions there are now.
set -e

systemd-sysusers /usr/lib/sysusers.d/headrace.conf
chgrp headrace /etc/headrace/config.toml
chmod 0640 /etc/headrace/config.toml
# The service may not write here: compiled once, and not at each start.
/opt/headrace/bin/python3 -m compileall -q /opt/headrace/lib || true

# Where systemd does not run (a container, a chroot) there is nothing to tell. The service is not started at the first
# installation, since it has no key yet; in an upgrade it drains, and the new version goes on.
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    systemctl try-restart headrace.service headrace-worker.service || true
fi
