"""
OpenAI's own SDK at the daemon's HTTP port: Claude, asked in the other dialect.

    python clients/examples/openai_sdk.py [http://HOST:PORT]

Needs `openai` only. The cache, the budgets and the retries are those of every other call.
"""

from __future__ import annotations

import sys

import openai


def main(edge: str) -> None:
    """Ask once for the whole, and once for the pieces."""
    headers = {"x-headrace-caller": "example"}
    with openai.OpenAI(base_url=f"{edge}/v1", api_key="unused", default_headers=headers) as client:
        prompt = {"role": "user", "content": "In one sentence: what is a mill pond?"}
        reply = client.chat.completions.create(model="claude-haiku-4-5", max_tokens=64, messages=[prompt])
        print(reply.choices[0].message.content)
        pieces = client.chat.completions.create(model="claude-haiku-4-5", max_tokens=64, messages=[prompt], stream=True)
        print("".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:7480")
