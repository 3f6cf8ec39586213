"""What tests of the clients share: either library with our transports, where it asks, and a daemon of the test's own."""

from __future__ import annotations

import contextlib
import importlib
from concurrent import futures

import grpc

from headrace_client.v1.api_service_pb2_grpc import add_ApiServiceServicer_to_server

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


@contextlib.contextmanager
def serving(servicer, path):
    """Serve `ApiService` on a socket, whose address the servicer is given."""
    with futures.ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool)
        add_ApiServiceServicer_to_server(servicer, server)
        servicer.address = f"unix:{path}"
        server.add_insecure_port(servicer.address)
        server.start()
        yield servicer
        server.stop(None).wait()
