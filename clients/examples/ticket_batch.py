"""
A batch job that takes its time: hands in many calls at once, and collects the answers as they come.

    python clients/examples/ticket_batch.py [HOST:PORT or unix:PATH] [HOW MANY]

The daemon asks upstream when the caller's budget has room, in the lane of those for whom nobody waits. A ticket is durable:
were this program stopped after handing in, it could be started again and would find the answers, by its idempotency keys.
"""

from __future__ import annotations

import asyncio
import sys

from headrace_client import AsyncHeadrace, DeadlineExceededError, HeadraceError, Ticket


async def collect(client: AsyncHeadrace, ticket: Ticket) -> str:
    """Wait for a ticket, however often the waiting has to begin anew."""
    while True:
        try:
            ended = await client.tickets.wait(ticket.id, timeout=60)
            return ended.answer().text
        except DeadlineExceededError:
            print(f"{ticket.id} goes on: still waiting")
        except HeadraceError as error:
            return f"failed: {error}"


async def main(address: str, count: int) -> None:
    """Hand in *count* prompts, and print what comes back."""
    async with AsyncHeadrace(address, caller="nightly", lane="batch") as client:
        prompts = [f"Describe mill number {number} in a sentence." for number in range(count)]
        submitted = [
            client.messages.submit(
                model="claude-haiku-4-5",
                max_tokens=60,
                messages=[{"role": "user", "content": prompt}],
                idempotency_key=f"mills-{number}",
                answer_timeout=3600,
            )
            for number, prompt in enumerate(prompts)
        ]
        tickets = await asyncio.gather(*submitted)
        print(f"{len(tickets)} handed in")
        for prompt, answer in zip(prompts, await asyncio.gather(*(collect(client, each) for each in tickets)), strict=True):
            print(f"{prompt} -> {answer}")


if __name__ == "__main__":
    target = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:7400"
    asyncio.run(main(target, int(sys.argv[2]) if len(sys.argv) > 2 else 8))
