"""
A chat in the terminal: what the model says is printed as it comes, and Ctrl-C ends an answer without ending the chat.

    python clients/examples/streaming_chat.py [HOST:PORT or unix:PATH]

What was broken off is gone at the daemon and upstream as well: leaving the stream cancels the call.
"""

from __future__ import annotations

import sys
from typing import Any

from headrace_client import Headrace, HeadraceError


def say(client: Headrace, turns: list[dict[str, Any]]) -> None:
    """Ask for the next answer, print it as it comes, and add it to the conversation."""
    with client.messages.stream(model="claude-haiku-4-5", max_tokens=500, messages=turns) as stream:
        for piece in stream.text_stream:
            print(piece, end="", flush=True)
        print()
        turns.append({"role": "assistant", "content": stream.get_final_message().message.content})


def main(address: str) -> None:
    """Talk until the input ends."""
    turns: list[dict[str, Any]] = []
    with Headrace(address, caller="chat", lane="interactive") as client:
        for line in sys.stdin:
            turns.append({"role": "user", "content": line.strip()})
            try:
                say(client, turns)
            except (HeadraceError, KeyboardInterrupt) as error:
                turns.pop()  # as if it had not been asked
                print(f"\n({error or 'interrupted'})")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:7400")
