/** What callers hear while upstream says no: their SDK's own clock does not ring first, and streams are not silent. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";

import Anthropic from "@anthropic-ai/sdk";
import OpenAI from "openai";

import { anthropicSdk, openaiSdk } from "./sdks.js";
import { stage } from "./stage.js";

const set = stage("LISTEN__STREAM_OPENS=1s", "RETRY__MAX_ATTEMPTS=1000");
const MODEL = "claude-haiku-4-5";

function ask(content: string) {
  return { model: MODEL, max_tokens: 60, messages: [{ role: "user" as const, content }] };
}

/** Fetches a stream with nothing but Node's fetch, and returns its lines, each with the second in which it came. */
async function lines(path: string, content: string): Promise<{ headed: number; said: [number, string][] }> {
  const began = Date.now();
  const since = () => (Date.now() - began) / 1000;
  const body = JSON.stringify({ ...ask(content), stream: true });
  const headers = { "anthropic-version": "2023-06-01", "content-type": "application/json" };
  const response = await fetch(set.at.http + path, { method: "POST", body, headers });
  assert.equal(response.status, 200);
  const headed = since();
  const said: [number, string][] = [];
  let rest = "";
  const decoder = new TextDecoder();
  for await (const chunk of response.body!) {
    const parts = (rest + decoder.decode(chunk, { stream: true })).split("\n");
    rest = parts.pop()!;
    for (const line of parts) said.push([since(), line]);
  }
  return { headed, said };
}

describe("an SDK's own clock", () => {
  const kinds = [
    ["overloaded", 529],
    ["rate_limit", 429],
    ["api_error", 500],
  ] as const;
  for (const [kind, status] of kinds) {
    test(`rings after upstream's word: ${kind}`, async () => {
      await set.fault({ kind, path: "/v1/*", text: `clock ${kind}`, retry_after_s: [0.3, 0.3] });
      const anthropic = anthropicSdk(set, "http", { timeout: 4000 });
      const openai = new OpenAI({ apiKey: "unused", maxRetries: 0, baseURL: `${set.at.http}/v1`, timeout: 4000 });
      const whole = anthropic.messages.create(ask(`clock ${kind} whole`));
      const stream = anthropic.messages.stream(ask(`clock ${kind} stream`)).finalMessage();
      // OpenAI's says the time of one call, and not that of the client.
      const chat = openai.chat.completions.create(ask(`clock ${kind} chat`), { timeout: 4000 });
      // A stream's head is out by then: its failure has a type, and no status.
      const says = (error: unknown) => {
        assert.ok(!(error instanceof Anthropic.APIConnectionError || error instanceof OpenAI.APIConnectionError), String(error));
        return true;
      };
      const [one, two, three] = await Promise.all([
        assert.rejects(whole, (error) => says(error) && (error as { status: number }).status === status),
        assert.rejects(stream, says),
        assert.rejects(chat, (error) => says(error) && (error as { status: number }).status === status),
      ]);
      assert.deepEqual([one, two, three], [undefined, undefined, undefined]);
    });
  }
});

describe("a stream that waits", () => {
  const WAIT_S = 12;

  test("has its head after a second, signs of life, and its answer", { timeout: 40_000 }, async () => {
    for (const name of ["fetch", "fetch chat", "sdk", "sdk chat"]) {
      await set.fault({ kind: "rate_limit", path: "/v1/*", text: `waits: ${name}.`, count: 1, retry_after_s: [WAIT_S, WAIT_S] });
    }
    const [plain, chat, message, chunks] = await Promise.all([
      lines("/v1/messages", "waits: fetch."),
      lines("/v1/chat/completions", "waits: fetch chat."),
      anthropicSdk(set, "http").messages.stream(ask("waits: sdk.")).finalMessage(),
      (async () => {
        const stream = await openaiSdk(set, "http").chat.completions.create({ ...ask("waits: sdk chat."), stream: true });
        let text = "";
        for await (const chunk of stream) text += chunk.choices[0]?.delta.content ?? "";
        return text;
      })(),
    ]);
    for (const { headed, said } of [plain, chat]) {
      assert.ok(headed < 4, `the head came after ${headed} s`);
      const signs = said.filter(([, line]) => line.startsWith(":"));
      assert.ok(signs.length > 0, "no sign of life");
      const moments = [headed, ...said.map(([at]) => at)];
      const pauses = moments.slice(1).map((at, index) => at - moments[index]!);
      assert.ok(Math.max(...pauses) < 11.5, `silent for ${Math.max(...pauses)} s`);
    }
    assert.ok(plain.said.some(([, line]) => line === "event: message_stop"));
    assert.ok(chat.said.some(([, line]) => line === "data: [DONE]"));
    assert.equal(message.content[0]?.type, "text");
    assert.match(chunks, /^You said/);
  });

  test("and fails after its head, is an error with upstream's type", { timeout: 40_000 }, async () => {
    for (const name of ["sdk", "sdk chat"]) {
      await set.fault({ kind: "rate_limit", path: "/v1/*", text: `spent: ${name}.`, count: 1, retry_after_s: [2, 2] });
    }
    await set.fault({ kind: "spend_limit", path: "/v1/*", text: "spent:" });
    const stream = anthropicSdk(set, "http").messages.stream(ask("spent: sdk.")).finalMessage();
    const chat = (async () => {
      const chunks = await openaiSdk(set, "http").chat.completions.create({ ...ask("spent: sdk chat."), stream: true });
      for await (const _ of chunks);
    })();
    await Promise.all([
      assert.rejects(stream, (error) => error instanceof Anthropic.APIError && /rate_limit_error/.test(JSON.stringify(error) + error)),
      assert.rejects(chat, (error) => error instanceof OpenAI.APIError && /rate_limit_error/.test(JSON.stringify(error) + error)),
    ]);
  });
});

describe("a whole answer", () => {
  test("for which upstream would have Node wait too long is refused at once", { timeout: 40_000 }, async () => {
    await set.fault({ kind: "rate_limit", path: "/v1/*", text: "long:", retry_after_s: [330, 330] });
    const sdk = anthropicSdk(set, "http").messages.create(ask("long: sdk"));
    const chat = openaiSdk(set, "http").chat.completions.create(ask("long: chat"));
    const plain = fetch(`${set.at.http}/v1/messages`, {
      method: "POST",
      body: JSON.stringify(ask("long: plain")),
      headers: { "anthropic-version": "2023-06-01" },
    });
    await Promise.all([
      assert.rejects(sdk, Anthropic.RateLimitError),
      assert.rejects(chat, OpenAI.RateLimitError),
      plain.then((response) => assert.equal(response.status, 429)),
    ]);
  });
});
