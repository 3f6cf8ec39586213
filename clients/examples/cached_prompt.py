"""
Asks one prompt twice over gRPC, and says where each answer came from.

    python clients/examples/cached_prompt.py [HOST:PORT or unix:PATH]
"""

from __future__ import annotations

import sys
import time

import grpc

from headrace.v1 import messages_service_pb2, messages_service_pb2_grpc, options_pb2


def request(prompt: str) -> messages_service_pb2.CreateMessageRequest:
    """Return the call."""
    asked = messages_service_pb2.CreateMessageRequest(options=options_pb2.CallOptions(caller="example"))
    asked.params.model, asked.params.max_tokens = "claude-sonnet-4-5", 64
    asked.params.messages.add(role="user").content.text = prompt
    return asked


def main(address: str) -> None:
    """Ask twice."""
    with grpc.insecure_channel(address) as channel:
        messages = messages_service_pb2_grpc.MessagesServiceStub(channel)
        for _ in range(2):
            began = time.perf_counter()
            reply = messages.CreateMessage(request("In one sentence: what is a headrace?"), timeout=60)
            source = options_pb2.AnswerSource.Name(reply.origin.source).removeprefix("ANSWER_SOURCE_").lower()
            print(f"{source}, {1000 * (time.perf_counter() - began):.1f} ms: {reply.message.content[0].text.text}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:7400")
