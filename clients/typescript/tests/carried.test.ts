/** The official SDKs on endpoints that are only carried, or told in OpenAI's form: chat completions, files, batches. */
import assert from "node:assert/strict";
import { createReadStream, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, test } from "node:test";

import Anthropic from "@anthropic-ai/sdk";
import OpenAI from "openai";

import { headraceFetch } from "../src/index.js";
import { anthropicSdk, openaiSdk, type Way, WAYS } from "./sdks.js";
import { stage, until } from "./stage.js";
import { Upstream } from "./upstream.js";

const upstream = new Upstream();
const set = stage(upstream.setting());
const anthropic = (way: Way, options?: object) => anthropicSdk(set, way, options);
const openai = (way: Way) => openaiSdk(set, way);

const CONTENT = Buffer.alloc(3_000_000, "water ");

/** Runs *use* with the path of a file that holds `CONTENT`. */
async function withFile(use: (path: string) => Promise<void>): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), "hr"));
  try {
    writeFileSync(join(directory, "mill.txt"), CONTENT);
    await use(join(directory, "mill.txt"));
  } finally {
    rmSync(directory, { recursive: true });
  }
}

function ask(content: string) {
  return { model: "claude-haiku-4-5", messages: [{ role: "user" as const, content }] };
}

for (const way of WAYS) {
  describe(`OpenAI's SDK over ${way}`, () => {
    test("creates a completion, which is kept", async () => {
      const { data, response } = await openai(way)
        .chat.completions.create(ask(`chat ${way}`))
        .withResponse();
      assert.equal(data.choices[0]?.message.content, `You said: chat ${way}`);
      assert.equal(response.headers.get("x-headrace-source"), "upstream");
      const again = await openai(way)
        .chat.completions.create(ask(`chat ${way}`))
        .withResponse();
      assert.equal(again.response.headers.get("x-headrace-source"), "cache");
    });

    test("streams a completion", async () => {
      const words: string[] = [];
      for await (const piece of await openai(way).chat.completions.create({ ...ask(`words ${way}`), stream: true })) {
        words.push(piece.choices[0]?.delta.content ?? "");
      }
      assert.equal(words.join(""), `You said: words ${way}`);
      assert.ok(words.length > 3);
    });

    test("uses a tool", async () => {
      const tools = [{ type: "function" as const, function: { name: "set_gate", parameters: { type: "object" } } }];
      const completion = await openai(way).chat.completions.create({ ...ask(`tool ${way}`), tools });
      const call = completion.choices[0]?.message.tool_calls?.[0];
      assert.deepEqual(call?.type === "function" && call.function, { name: "set_gate", arguments: '{"height":3}' });
    });

    test("raises its own errors", async () => {
      const call = openai(way).chat.completions.create({ ...ask("x"), model: "unheard-of" });
      await assert.rejects(call, (error: unknown) => {
        assert.ok(error instanceof OpenAI.NotFoundError, String(error));
        assert.deepEqual([error.status, error.type], [404, "not_found_error"]);
        return true;
      });
    });

    test("leaves a stream in the middle", async () => {
      const stream = await openai(way).chat.completions.create({ ...ask(`silence ${way}`), stream: true });
      for await (const piece of stream) if (piece.choices[0]?.delta.content) break;
      await until(() => upstream.running === 0);
    });
  });

  describe(`Anthropic's SDK over ${way}`, () => {
    test("uploads a file by stream, downloads and deletes it", async () => {
      await withFile(async (path) => {
        const { files } = anthropic(way).beta;
        const file = await files.upload({ file: createReadStream(path) });
        assert.deepEqual([file.filename, file.size_bytes], ["mill.txt", CONTENT.length]);
        assert.ok(Buffer.from(await (await files.download(file.id)).arrayBuffer()).equals(CONTENT));
        await files.delete(file.id);
        await assert.rejects(files.retrieveMetadata(file.id), Anthropic.NotFoundError);
      });
    });

    test("downloads what is coded on the way", async () => {
      const packed = anthropic(way, { defaultHeaders: { "accept-encoding": "gzip" } }).beta.files;
      const file = await packed.upload({ file: new File(["packed"], "packed.txt") });
      const response = await packed.download(file.id);
      assert.equal(await response.text(), "packed");
    });

    test("creates a batch and reads its results", async () => {
      const { batches } = anthropic(way).messages;
      const { id } = await batches.create({ requests: [] });
      const results: string[] = [];
      for await (const { custom_id } of await batches.results(id)) results.push(custom_id);
      assert.deepEqual(results, ["1", "2"]);
    });
  });
}

test("addresses in answers lead to where the caller sent its request", async () => {
  const fetch = headraceFetch(set.unix);
  const response = await fetch("https://api.example/v1/messages/batches/msgbatch_1");
  const { results_url } = (await response.json()) as { results_url: string };
  assert.equal(results_url, "https://api.example/v1/messages/batches/msgbatch_1/results");
});
