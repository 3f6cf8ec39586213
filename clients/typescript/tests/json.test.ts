/** JSON and the typed messages: whatever the JSON holds, it comes back; and what has a field is in it. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { fromBinary, toBinary } from "@bufbuild/protobuf";

import { StreamEventSchema } from "../src/gen/headrace/v1/events_pb.js";
import { MessageParamsSchema, MessageSchema } from "../src/gen/headrace/v1/messages_pb.js";
import { toJson, toMessage } from "../src/index.js";

const CALL = { model: "claude-haiku-4-5", max_tokens: 8 };

function returned(params: object): unknown {
  const message = toMessage(MessageParamsSchema, params);
  return toJson(MessageParamsSchema, fromBinary(MessageParamsSchema, toBinary(MessageParamsSchema, message)));
}

function nested(depth: number): object {
  const inner = depth ? [nested(depth - 1)] : "core";
  return { type: "tool_result", tool_use_id: "t", content: inner };
}

const KEPT: Record<string, object> = {
  "plain text": { ...CALL, messages: [{ role: "user", content: "grüße 😀" }] },
  "an empty list of blocks": { ...CALL, messages: [{ role: "user", content: [] }] },
  "no messages": { ...CALL, messages: [] },
  "blocks of all sorts": {
    ...CALL,
    messages: [
      {
        role: "user",
        content: [
          { type: "text", text: "t", cache_control: { type: "ephemeral", ttl: "1h" } },
          { type: "image", source: { type: "base64", media_type: "image/png", data: "aGk=" } },
          { type: "tool_use", id: "a", name: "n", input: { deep: [1, null, { "": 0.5 }] } },
          { type: "tool_result", tool_use_id: "a", content: [{ type: "text", text: "r" }], is_error: false },
          {
            type: "text",
            text: "cited",
            citations: [{ type: "char_location", cited_text: "c", document_index: 0, start_char_index: 7 }],
          },
        ],
      },
    ],
  },
  "a block of tomorrow": {
    ...CALL,
    messages: [{ role: "user", content: [{ type: "hologram", rays: [1] }, { no_type: true }] }],
  },
  "a parameter of tomorrow": { ...CALL, messages: [], novelty: { a: 1 }, system: "s" },
  "values that do not fit": {
    model: 7,
    max_tokens: 1.5,
    messages: "none",
    temperature: null,
    stop_sequences: [],
    top_k: 1e30,
    tools: [{ name: 1 }],
  },
  numbers: { ...CALL, messages: [], temperature: 0, top_p: 0.25, top_k: -3 },
  "half a surrogate pair": { ...CALL, messages: [{ role: "user", content: "\ud83d" }], system: "\udc00" },
  "the name __proto__": { ...CALL, messages: [], ["__proto__"]: { polluted: true }, metadata: JSON.parse('{"__proto__": 1}') },
  "the names of our fields": { ...CALL, messages: [], extra_json: "x", extraJson: 1, maxTokens: 2 },
  "blocks in blocks, too deep for protobuf": { ...CALL, messages: [{ role: "user", content: [nested(60)] }] },
  "any JSON as a container": { ...CALL, messages: [], container: null, context_management: "x" },
};

describe("JSON comes back:", () => {
  for (const [name, params] of Object.entries(KEPT)) test(name, () => assert.deepEqual(returned(params), params));
});

describe("a member", () => {
  test("with a field is in it, and else in extra_json", () => {
    const message = toMessage(MessageParamsSchema, {
      ...CALL,
      messages: [{ role: "user", content: "hi" }],
      tools: [{ name: "t", input_schema: { type: "object" }, since: 1 }],
      new_one: true,
    });
    assert.equal(message.maxTokens, 8n);
    assert.deepEqual(message.messages[0]?.content?.content, { case: "text", value: "hi" });
    assert.equal(Buffer.from(message.tools[0]!.inputSchema!).toString(), '{"type":"object"}');
    assert.equal(Buffer.from(message.tools[0]!.extraJson).toString(), '{"since":1}');
    assert.equal(Buffer.from(message.extraJson).toString(), '{"new_one":true}');
  });

  test("that is an empty list of blocks is no text and no extra", () => {
    const message = toMessage(MessageParamsSchema, { ...CALL, messages: [{ role: "user", content: [] }] });
    assert.equal(message.messages[0]?.content?.content.case, "blocks");
    assert.equal(message.messages[0]?.extraJson.length, 0);
  });

  test("that is undefined is left out", () => {
    assert.deepEqual(returned({ ...CALL, messages: [], system: undefined }), { ...CALL, messages: [] });
  });
});

test("an event's type says its member", () => {
  const said = { type: "content_block_delta", index: 0, delta: { type: "text_delta", text: "t" } };
  const event = toMessage(StreamEventSchema, said);
  assert.equal(event.event.case, "contentBlockDelta");
  assert.deepEqual(toJson(StreamEventSchema, event), said);
});

test("what is no object is no message", () => {
  for (const value of [null, [], "text", 1]) assert.throws(() => toMessage(MessageSchema, value), TypeError);
});
