/** The official SDKs, unchanged, over HTTP and over gRPC: whatever way they come, they must not be able to tell. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";

import Anthropic from "@anthropic-ai/sdk";
import OpenAI from "openai";

import { headraceFetch } from "../src/index.js";
import { anthropicSdk, openaiSdk, type Way, WAYS } from "./sdks.js";
import { stage, until } from "./stage.js";

const set = stage("AUTH__DEFAULT_ROLE=admin");
const MODEL = "claude-haiku-4-5";
const anthropic = (way: Way, options?: object) => anthropicSdk(set, way, options);
const openai = (way: Way) => openaiSdk(set, way);

function ask(content: string) {
  return { model: MODEL, max_tokens: 60, messages: [{ role: "user" as const, content }] };
}

const TOOL = {
  name: "set_gate",
  description: "Sets a sluice gate.",
  input_schema: { type: "object" as const, properties: { height: { type: "integer" as const } }, required: ["height"] },
};

for (const way of WAYS) {
  describe(`Anthropic's SDK over ${way}`, () => {
    test("creates a message, with the request id and our headers", async () => {
      const { data, response, request_id } = await anthropic(way)
        .messages.create(ask(`create ${way}`))
        .withResponse();
      assert.equal(data.content[0]?.type, "text");
      assert.match(request_id ?? "", /^req_/);
      assert.equal(response.headers.get("x-headrace-source"), "upstream");
      const again = await anthropic(way)
        .messages.create(ask(`create ${way}`))
        .withResponse();
      assert.equal(again.response.headers.get("x-headrace-source"), "cache");
      assert.equal(again.data.id, data.id);
    });

    test("streams a message event by event", async () => {
      const stream = anthropic(way).messages.stream(ask(`stream ${way}`));
      let text = "";
      stream.on("text", (delta) => (text += delta));
      const message = await stream.finalMessage();
      assert.deepEqual([message.content[0]?.type, message.stop_reason !== null], ["text", true]);
      assert.match(text, new RegExp(`stream ${way}`));
    });

    test("uses a tool, whole and streamed", async () => {
      const params = { ...ask(`use the tool ${way}`), tools: [TOOL] };
      const message = await anthropic(way).messages.create(params);
      const used = message.content.find((block) => block.type === "tool_use");
      assert.equal(typeof (used?.input as { height: number }).height, "number");
      assert.equal(message.stop_reason, "tool_use");
      const streamed = await anthropic(way, { defaultHeaders: { "cache-control": "no-store" } })
        .messages.stream(params)
        .finalMessage();
      assert.deepEqual(streamed.content.find((block) => block.type === "tool_use")?.input, used?.input);
    });

    test("counts tokens", async () => {
      const { max_tokens: _, ...params } = ask("four letters");
      assert.equal((await anthropic(way).messages.countTokens(params)).input_tokens, 3);
    });

    test("lists and gets models", async () => {
      const ids: string[] = [];
      for await (const model of anthropic(way).models.list()) ids.push(model.id);
      assert.ok(ids.length > 1);
      assert.equal((await anthropic(way).models.retrieve(ids[0]!)).id, ids[0]);
    });

    test("raises its own errors, with status, type and request id", async () => {
      await assert.rejects(anthropic(way).messages.create({ ...ask("x"), model: "unheard-of" }), (error: unknown) => {
        assert.ok(error instanceof Anthropic.NotFoundError, String(error));
        assert.equal(error.status, 404);
        assert.equal((error.error as { error: { type: string } }).error.type, "not_found_error");
        assert.match(error.requestID ?? "", /^req_/);
        return true;
      });
      await assert.rejects(anthropic(way).messages.create({ ...ask("x"), max_tokens: -1 }), Anthropic.BadRequestError);
      await set.fault({ kind: "rate_limit", retry_after_s: [60, 60], text: `limited ${way}` });
      const limited = anthropic(way, { timeout: 5_000 }).messages.create(ask(`limited ${way}`));
      await assert.rejects(
        limited,
        (error: unknown) => error instanceof Anthropic.RateLimitError && error.headers.has("retry-after"),
      );
    });

    test("raises an error in the middle of a stream", async () => {
      await set.fault({ kind: "stream_error", after_deltas: 2, text: `broken ${way}`, count: 1 });
      const stream = await anthropic(way).messages.create({ ...ask(`broken ${way}`), stream: true });
      const events: string[] = [];
      const reading = (async () => {
        for await (const event of stream) events.push(event.type);
      })();
      await assert.rejects(reading, Anthropic.APIError);
      assert.ok(events.includes("content_block_delta"));
    });

    test("aborts a call that has no answer yet", async () => {
      await set.fault({ kind: "hang", text: `hang ${way}`, count: 1 });
      const control = new AbortController();
      const call = anthropic(way).messages.create(ask(`hang ${way}`), { signal: control.signal });
      call.catch(() => {}); // it is looked at below
      await until(async () => (await set.counts()).running === 1);
      control.abort();
      await assert.rejects(call, Anthropic.APIUserAbortError);
      await until(async () => (await set.counts()).running === 0);
    });

    test("leaves a stream in the middle", async () => {
      await set.fault({ kind: "hang", after_deltas: 2, text: `leave ${way}`, count: 1 });
      const stream = await anthropic(way).messages.create({ ...ask(`leave ${way}`), stream: true });
      for await (const event of stream) if (event.type === "content_block_delta") break;
      await until(async () => (await set.counts()).running === 0);
    });

    test("times out", async () => {
      await set.fault({ kind: "hang", text: `slow ${way}`, count: 1 });
      await assert.rejects(anthropic(way, { timeout: 300 }).messages.create(ask(`slow ${way}`)), Anthropic.APIConnectionTimeoutError);
      await until(async () => (await set.counts()).running === 0);
    });
  });

  describe(`OpenAI's SDK over ${way}`, () => {
    test("lists models", async () => {
      const ids: string[] = [];
      for await (const model of openai(way).models.list()) ids.push(model.id);
      assert.ok(ids.length > 1);
    });

    test("raises its own errors", async () => {
      await assert.rejects(openai(way).models.retrieve("unheard-of"), OpenAI.NotFoundError);
    });
  });
}

test("nobody there: the SDK's connection error, with the system's cause", async () => {
  const client = new Anthropic({ apiKey: "unused", maxRetries: 0, fetch: headraceFetch("127.0.0.1:1") });
  await assert.rejects(client.messages.create(ask("x")), (error: unknown) => {
    assert.ok(error instanceof Anthropic.APIConnectionError);
    assert.equal(((error.cause as Error).cause as NodeJS.ErrnoException).code, "ECONNREFUSED");
    return true;
  });
});
