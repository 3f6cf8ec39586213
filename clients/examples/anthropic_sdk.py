"""
Anthropic's own SDK on the daemon's unix socket: no port, no TLS, no key.

    python clients/examples/anthropic_sdk.py [unix:PATH or HOST:PORT]

Needs `anthropic` and `headrace-client[httpx2]`.
"""

from __future__ import annotations

import sys

import anthropic
from headrace_client.httpx2_transport import HeadraceTransport


def main(address: str) -> None:
    """Ask once for the whole, and once for the events."""
    http_client = anthropic.DefaultHttpxClient(transport=HeadraceTransport(address))
    headers = {"x-headrace-caller": "example"}
    with anthropic.Anthropic(api_key="unused", http_client=http_client, default_headers=headers) as client:
        prompt = {"role": "user", "content": "In one sentence: what is a tailrace?"}
        reply = client.messages.with_raw_response.create(model="claude-haiku-4-5", max_tokens=64, messages=[prompt])
        print(f"{reply.headers['x-headrace-source']}: {reply.parse().content[0].text}")
        with client.messages.stream(model="claude-haiku-4-5", max_tokens=64, messages=[prompt]) as stream:
            print(f"{stream.response.headers['x-headrace-source']}: ", end="")
            for piece in stream.text_stream:
                print(piece, end="", flush=True)
            print()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "unix:/run/headrace/headrace.sock")
