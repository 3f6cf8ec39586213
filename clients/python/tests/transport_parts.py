"""What tests of the transports share: either library with our transports, and where it asks."""

from __future__ import annotations

import importlib

URL = "https://api.anthropic.com/v1/messages"
HEADERS = {"content-type": "application/json", "x-headrace-caller": "tests"}


class Library:
    """httpx or httpx2, and our transports for it."""

    def __init__(self, name):
        self.module = importlib.import_module(name)
        self.ours = importlib.import_module(f"headrace_client.{name}_transport")

    def client(self, address, **more):
        return self.module.Client(transport=self.ours.HeadraceTransport(address), headers=HEADERS, **more)

    def async_client(self, address, **more):
        return self.module.AsyncClient(transport=self.ours.AsyncHeadraceTransport(address), headers=HEADERS, **more)
