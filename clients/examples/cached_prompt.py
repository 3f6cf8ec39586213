"""
Asks one prompt twice, and says where each answer came from.

    python clients/examples/cached_prompt.py [HOST:PORT or unix:PATH]
"""

from __future__ import annotations

import sys
import time

from headrace_client import Headrace


def main(address: str) -> None:
    """Ask twice."""
    prompt = {"role": "user", "content": "In one sentence: what is a headrace?"}
    with Headrace(address, caller="example") as client:
        for _ in range(2):
            began = time.perf_counter()
            answer = client.messages.create(model="claude-sonnet-4-5", max_tokens=64, messages=[prompt])
            print(f"{answer.source}, {1000 * (time.perf_counter() - began):.1f} ms: {answer.text}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:7400")
