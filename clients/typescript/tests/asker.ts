/**
 * Asks daemons what it is told to, line by line, for tests that are written in another language (tests/chaos).
 *
 * A line of JSON on its input is a question: name, key, way ("unary" or "stream"), grpc (host:port), prompt, timeout_ms. For each of
 * them there is one on its output: name; the id and text of what came; why there is no more, and whether to ask again.
 */
import { createInterface } from "node:readline";

import { Headrace, HeadraceError } from "../src/index.js";

interface Asked {
  name: string;
  key: string;
  way: string;
  grpc: string;
  prompt: string;
  timeout_ms: number;
}

interface Heard {
  id?: string;
  text: string;
  why?: string;
  again?: boolean;
}

const WORTH_IT = new Set(["UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"]);

// A daemon that was started anew has another address.
const clients = new Map<string, Headrace>();

function client(address: string): Headrace {
  const known = clients.get(address) ?? new Headrace(address);
  clients.set(address, known);
  return known;
}

async function ask(asked: Asked, heard: Heard): Promise<void> {
  const params = { model: "claude-haiku-4-5", max_tokens: 400, messages: [{ role: "user" as const, content: asked.prompt }] };
  const options = { idempotencyKey: asked.key || undefined, timeoutMs: asked.timeout_ms };
  const { messages } = client(asked.grpc);
  if (asked.way !== "stream") {
    const { message } = await messages.create(params, options);
    heard.id = message.id;
    heard.text = message.content.map((block) => (block.type === "text" ? block.text : "")).join("");
    return;
  }
  let isWhole = false;
  for await (const event of messages.stream(params, options)) {
    if (event.type === "message_start") heard.id = event.message.id;
    if (event.type === "content_block_delta" && event.delta.type === "text_delta") heard.text += event.delta.text;
    isWhole ||= event.type === "message_stop";
  }
  if (!isWhole) throw new HeadraceError("the stream ended early", { code: "UNAVAILABLE" });
}

async function answer(asked: Asked): Promise<void> {
  const heard: Heard = { text: "" };
  try {
    await ask(asked, heard);
  } catch (error) {
    const { code, reason, message } = HeadraceError.from(error);
    heard.why = `${code} ${reason ?? message}`;
    heard.again = WORTH_IT.has(code);
  }
  process.stdout.write(`${JSON.stringify({ name: asked.name, ...heard })}\n`);
}

for await (const line of createInterface({ input: process.stdin })) void answer(JSON.parse(line) as Asked);
process.exit(0);
