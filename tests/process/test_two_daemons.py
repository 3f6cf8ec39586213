"""Two installed daemons on one Redis behave as one."""

from __future__ import annotations

import asyncio
import collections

import aiohttp
import grpc
import pytest

from fleet import daemon, simulated
from headrace.simulator import Options
from headrace.v1 import messages_service_pb2, messages_service_pb2_grpc, options_pb2

HEADERS = {"anthropic-version": "2023-06-01"}


def body(text, **more):
    return {"model": "claude-sonnet-4-5", "max_tokens": 32, "messages": [{"role": "user", "content": text}], **more}


async def over_http(session, url, text, **more):
    async with session.post(f"{url}/v1/messages", json=body(text, **more), headers=HEADERS) as response:
        said = await response.json()
        return response.status, said.get("id"), response.headers["x-headrace-source"]


async def over_grpc(stub, text):
    request = messages_service_pb2.CreateMessageRequest(options=options_pb2.CallOptions(anthropic_version="2023-06-01"))
    request.params.model, request.params.max_tokens = "claude-sonnet-4-5", 32
    request.params.messages.add(role="user").content.text = text
    reply = await stub.CreateMessage(request, timeout=30)
    source = options_pb2.AnswerSource.Name(reply.origin.source).removeprefix("ANSWER_SOURCE_").lower()
    return 200, reply.message.id, source


async def ask_everywhere(daemons, text, each):
    """Ask the same of all daemons, over HTTP and gRPC, *each* times a door, all at once."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session, Stubs(daemons) as stubs:
        asks = [over_http(session, each_daemon.http, text) for each_daemon in daemons for _ in range(each)]
        asks += [over_grpc(stub, text) for stub in stubs for _ in range(each)]
        return await asyncio.gather(*asks)


class Stubs:
    def __init__(self, daemons):
        self.channels = [grpc.aio.insecure_channel(each.grpc) for each in daemons]

    async def __aenter__(self):
        return [messages_service_pb2_grpc.MessagesServiceStub(channel) for channel in self.channels]

    async def __aexit__(self, *error):
        for channel in self.channels:
            await channel.close()


@pytest.mark.parametrize("fault", [None, "rate_limit", "overloaded"])
async def test_one_upstream_call(valkey_url, fault):
    """200 identical calls at once, half gRPC, half HTTP, cost one upstream call; one more if the first was turned away."""
    async with simulated(Options.instant(first_token_s=0.5)) as simulator:
        with daemon(simulator.url, valkey_url) as one, daemon(simulator.url, valkey_url) as two:
            if fault:
                simulator.faults.add(fault, count=1, retry_after_s=1)
            answers = await ask_everywhere([one, two], "the same for all", 50)

            sources = collections.Counter(source for _, _, source in answers)
            print(f"sources {dict(sources)}, upstream {simulator.counts.outcomes}")
            assert {status for status, _, _ in answers} == {200}
            assert len({message_id for _, message_id, _ in answers}) == 1
            assert simulator.counts.outcomes["answered"] == 1
            assert simulator.counts.total == (2 if fault else 1)
            assert sources["upstream"] == 1
            assert sources["shared"] + sources["cache"] == 199
