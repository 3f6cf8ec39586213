/** The typed client against a daemon. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { Headrace, HeadraceError, type StreamEvent } from "../src/index.js";
import { CacheService } from "../src/gen/headrace/v1/cache_service_pb.js";
import { chunk, head, peer } from "./peer.js";
import { stage, until } from "./stage.js";

const set = stage("AUTH__DEFAULT_ROLE=admin");

function ask(content: string) {
  return { model: "claude-haiku-4-5", max_tokens: 40, messages: [{ role: "user", content }] };
}

function code(...[name, reason]: [string, string?]): (error: unknown) => boolean {
  return (error) => {
    assert.ok(error instanceof HeadraceError, String(error));
    assert.deepEqual([error.code, error.reason], [name, reason]);
    return true;
  };
}

for (const way of ["unix", "tcp"] as const) {
  describe(`over ${way}`, () => {
    const client = () => new Headrace(way === "unix" ? set.unix : set.at.grpc, { caller: "tests" });

    test("an answer says where it came from; the same call again comes from the cache", async () => {
      const params = { ...ask(`typed ${way}`), temperature: 0.5, a_field_of_tomorrow: undefined };
      const first = await client().messages.create(params);
      assert.deepEqual([first.message.role, first.message.content[0]?.type], ["assistant", "text"]);
      assert.deepEqual([first.origin.source, first.origin.attempts], ["upstream", 1]);
      assert.match(first.origin.requestId, /^req_/);
      const again = await client().messages.create(params);
      assert.deepEqual(again.message, first.message);
      assert.equal(again.origin.source, "cache");
      const fresh = await client().messages.create(params, { cacheControl: { noStore: true } });
      assert.notEqual(fresh.message.id, first.message.id);
    });

    test("events come in their order", async () => {
      const stream = client().messages.stream(ask(`events ${way}`));
      const events: StreamEvent[] = [];
      for await (const event of stream) events.push(event);
      assert.deepEqual([events[0]?.type, events.at(-1)?.type], ["message_start", "message_stop"]);
      const text = events.map((event) =>
        event.type === "content_block_delta" && event.delta.type === "text_delta" ? event.delta.text : "",
      );
      assert.match(text.join(""), new RegExp(`events ${way}`));
      assert.equal(stream.origin?.source, "upstream");
    });

    test("leaving a stream early gives the call up", async () => {
      await set.fault({ kind: "hang", after_deltas: 2, text: `leave ${way}`, count: 1 });
      for await (const event of client().messages.stream(ask(`leave ${way}`))) {
        assert.equal((await set.counts()).running, 1);
        if (event.type === "content_block_delta") break;
      }
      await until(async () => (await set.counts()).running === 0);
    });

    test("a stream may be cancelled from outside", async () => {
      await set.fault({ kind: "hang", after_deltas: 2, text: `cancel ${way}`, count: 1 });
      const stream = client().messages.stream(ask(`cancel ${way}`));
      const reading = (async () => {
        for await (const event of stream) if (event.type === "content_block_delta") setTimeout(() => stream.cancel(), 50);
      })();
      await assert.rejects(reading, code("CANCELLED"));
      await until(async () => (await set.counts()).running === 0);
    });

    test("a signal ends a stream that is silent, with its reason", async () => {
      await set.fault({ kind: "hang", after_deltas: 2, text: `abort ${way}`, count: 1 });
      const control = new AbortController();
      const reason = new Error("enough");
      const reading = (async () => {
        for await (const event of client().messages.stream(ask(`abort ${way}`), { signal: control.signal })) {
          if (event.type === "content_block_delta") setTimeout(() => control.abort(reason), 50);
        }
      })();
      await assert.rejects(reading, reason);
      await until(async () => (await set.counts()).running === 0);
    });

    test("tokens are counted, models are listed", async () => {
      const { max_tokens: _, ...params } = ask("four letters");
      assert.equal((await client().messages.countTokens(params)).input_tokens, 3);
      const ids: unknown[] = [];
      for await (const model of client().models.list()) ids.push(model.id);
      assert.ok(ids.length > 0);
      assert.equal((await client().models.get(String(ids[0]))).id, ids[0]);
    });
  });
}

describe("tickets", () => {
  const client = () => new Headrace(set.unix, { caller: "clerk" });

  test("a call that is handed in is answered later", async () => {
    const { id, state } = await client().messages.submit(ask("later"), { answerTimeoutMs: 60_000 });
    assert.ok(["queued", "running"].includes(state));
    const ticket = await client().tickets.wait(id, { timeoutMs: 10_000 });
    assert.equal(ticket.state, "succeeded");
    assert.equal(ticket.message?.content[0]?.type, "text");
    assert.ok(ticket.createTime < ticket.expireTime);
    assert.equal((await client().tickets.get(id)).state, "succeeded");
    await assert.rejects(new Headrace(set.unix, { caller: "another" }).tickets.get(id), code("NOT_FOUND", "TICKET_NOT_FOUND"));
  });

  test("one may be cancelled, and is listed", async () => {
    await set.fault({ kind: "hang", text: "never", count: 1 });
    const { id } = await client().messages.submit(ask("never"));
    await until(async () => (await set.counts()).running > 0);
    await assert.rejects(client().tickets.wait(id, { timeoutMs: 50 }), code("DEADLINE_EXCEEDED"));
    const ticket = await client().tickets.cancel(id);
    assert.equal(ticket.state, "canceled");
    assert.equal(ticket.error?.code, "CANCELLED");
    const canceled: string[] = [];
    for await (const listed of client().tickets.list({ state: "canceled" })) canceled.push(listed.id);
    assert.deepEqual(canceled, [id]);
  });

  test("more than a page of them are listed", async () => {
    const many = new Headrace(set.unix, { caller: "many" });
    const submitted = await Promise.all(
      Array.from({ length: 55 }, (_, number) => many.messages.submit(ask(`ticket ${number}`))),
    );
    const listed: string[] = [];
    for await (const { id } of many.tickets.list()) listed.push(id);
    assert.deepEqual(listed.sort(), submitted.map(({ id }) => id).sort());
  });
});

describe("a failure", () => {
  const client = () => new Headrace(set.unix);

  test("of the daemon's has its reason", async () => {
    await assert.rejects(client().messages.create({ ...ask("x"), max_tokens: -1 }), code("INVALID_ARGUMENT", "INVALID_CALL"));
    const kept = { cacheControl: { onlyIfCached: true } };
    await assert.rejects(client().messages.create(ask("not kept"), kept), code("NOT_FOUND", "NOT_CACHED"));
    await client().messages.create(ask("one"), { idempotencyKey: "k" });
    await assert.rejects(
      client().messages.create(ask("two"), { idempotencyKey: "k" }),
      code("ALREADY_EXISTS", "IDEMPOTENCY_CONFLICT"),
    );
  });

  test("of upstream's has its status, type and request id", async () => {
    const call = client().messages.create({ ...ask("x"), model: "unheard-of" });
    await assert.rejects(call, (error: HeadraceError) => {
      assert.deepEqual(
        [error.code, error.reason, error.status, error.type],
        ["NOT_FOUND", "UPSTREAM_ERROR", 404, "not_found_error"],
      );
      assert.match(error.requestId ?? "", /^req_/);
      return true;
    });
  });

  test("says when to try again", async () => {
    await set.fault({ kind: "rate_limit", retry_after_s: [60, 60], text: "limited" });
    await assert.rejects(client().messages.create(ask("limited"), { timeoutMs: 5_000 }), (error: HeadraceError) => {
      assert.deepEqual([error.code, error.status], ["RESOURCE_EXHAUSTED", 429]);
      assert.ok((error.retryAfter ?? 0) > 50, `${error.retryAfter} s`);
      return true;
    });
  });

  test("of an endpoint without a service is the same", async () => {
    await assert.rejects(client().models.get("unheard-of"), (error: HeadraceError) => {
      assert.ok(error instanceof HeadraceError);
      assert.deepEqual([error.code, error.status, error.type], ["NOT_FOUND", 404, "not_found_error"]);
      return true;
    });
  });

  test("to connect is UNAVAILABLE, either way", async () => {
    const nobody = new Headrace("127.0.0.1:1");
    await assert.rejects(nobody.messages.create(ask("x")), code("UNAVAILABLE"));
    await assert.rejects(nobody.models.get("x"), code("UNAVAILABLE"));
  });

  test("because of the signal is its reason", async () => {
    const reason = new Error("no");
    await assert.rejects(client().messages.create(ask("x"), { signal: AbortSignal.abort(reason) }), reason);
    await assert.rejects(client().models.get("x", { signal: AbortSignal.abort(reason) }), reason);
  });
});

describe("batches", () => {
  test("are created, listed page by page, and their results read line by line", async () => {
    const asked: string[] = [];
    const address = await peer(async function* (parts) {
      for await (const { part } of parts) {
        if (part.case === "head") asked.push(`${part.value.method} ${part.value.path}?${part.value.query}`);
      }
      yield head(200);
      if (asked.at(-1)?.includes("results")) {
        yield chunk('{"custom_id":"1"}\n{"custom');
        yield chunk('_id":"2"}\n');
      } else if (asked.at(-1)?.startsWith("GET")) {
        const last = asked.at(-1)?.includes("after_id=b1");
        yield chunk(JSON.stringify({ data: [{ id: last ? "b2" : "b1" }], has_more: !last, last_id: "b1" }));
      } else yield chunk('{"id":"b1"}');
    });
    const { batches } = new Headrace(address);
    assert.equal((await batches.create({ requests: [{ custom_id: "1", params: ask("x") }] })).id, "b1");
    const gathered: unknown[] = [];
    for await (const batch of batches.list()) gathered.push(batch.id);
    for await (const result of batches.results("b1")) gathered.push(result.custom_id);
    assert.deepEqual(gathered, ["b1", "b2", "1", "2"]);
    await batches.cancel("b1");
    assert.deepEqual(asked.slice(1), [
      "GET /v1/messages/batches?",
      "GET /v1/messages/batches?after_id=b1",
      "GET /v1/messages/batches/b1/results?",
      "POST /v1/messages/batches/b1/cancel?",
    ]);
  });
});

test("a key is presented with RPCs and with what goes as HTTP", async () => {
  const seen: (string | null | undefined)[] = [];
  const address = await peer(async function* (parts, { requestHeader }) {
    for await (const { part } of parts) {
      if (part.case === "head") seen.push(part.value.headers.find(({ name }) => name === "x-api-key")?.value);
    }
    seen.push(requestHeader.get("x-api-key"));
    yield head(200);
    yield chunk("{}");
  });
  await new Headrace(address, { apiKey: "hr_key" }).models.get("x");
  assert.deepEqual(seen, ["hr_key", "hr_key"]);
});

test("any generated service has a stub", async () => {
  const { tiers } = await new Headrace(set.unix).stub(CacheService).getCacheStats({});
  assert.equal(tiers[0]?.tier, "memory");
});
