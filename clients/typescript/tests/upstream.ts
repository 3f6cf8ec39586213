/** A stand-in for the endpoints that the simulator does not have: chat completions, files, batches. */
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { Readable } from "node:stream";
import { after } from "node:test";
import { gzipSync } from "node:zlib";

type Body = Record<string, unknown>;

export class Upstream {
  /** Requests that have no whole answer yet. */
  running = 0;
  readonly #files = new Map<string, { name: string; content: Buffer }>();
  readonly #server = createServer((request, response) => void this.#answer(request, response));

  /** Listens, until the tests of the file are over; returns the setting that points a daemon at it. */
  async setting(): Promise<string> {
    await new Promise<void>((listening) => this.#server.listen(0, "127.0.0.1", listening));
    after(() => {
      this.#server.closeAllConnections();
      this.#server.close();
    });
    return `UPSTREAM__BASE_URL=http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    this.running++;
    response.once("close", () => this.running--);
    const [, , kind, id, part] = (request.url ?? "").split(/[/?]/);
    if (kind === "chat") return chat(await json(request), response);
    if (kind === "files") return this.#file(request, response, id, part);
    if (part === "batches" || id === "batches") return batch(request, response);
    say(response, 404, { error: { type: "not_found_error", message: "no such path" } });
  }

  async #file(request: IncomingMessage, response: ServerResponse, id = "", part = ""): Promise<void> {
    if (request.method === "POST") {
      const file = await uploaded(request);
      const made = `file_${this.#files.size + 1}`;
      this.#files.set(made, file);
      return say(response, 200, { id: made, type: "file", filename: file.name, size_bytes: file.content.length });
    }
    const file = this.#files.get(id);
    if (!file) return say(response, 404, { type: "error", error: { type: "not_found_error", message: "no such file" } });
    if (request.method === "DELETE") return (this.#files.delete(id), say(response, 200, { id, type: "file_deleted" }));
    if (part !== "content") return say(response, 200, { id, filename: file.name, size_bytes: file.content.length });
    const packs = String(request.headers["accept-encoding"]).includes("gzip");
    response.writeHead(200, { "content-type": "text/plain", ...(packs && { "content-encoding": "gzip" }) });
    response.end(packs ? gzipSync(file.content) : file.content);
  }
}

async function uploaded(request: IncomingMessage): Promise<{ name: string; content: Buffer }> {
  const pieces: Buffer[] = [];
  for await (const piece of request) pieces.push(piece as Buffer);
  const headers = { "content-type": String(request.headers["content-type"]) };
  const file = (await new Response(Buffer.concat(pieces), { headers }).formData()).get("file") as File;
  return { name: file.name, content: Buffer.from(await file.arrayBuffer()) };
}

function chat(body: Body, response: ServerResponse): void {
  const asked = (body.messages as { content: string }[]).at(-1)?.content ?? "";
  if (body.model === "unheard-of") {
    return say(response, 404, { error: { message: "model: unheard-of", type: "not_found_error", code: null, param: null } });
  }
  const common = { id: "chatcmpl-1", created: 1, model: body.model };
  if (!body.stream) {
    const calls = [{ id: "c1", type: "function", function: { name: "set_gate", arguments: '{"height":3}' } }];
    const message = { role: "assistant", content: `You said: ${asked}`, ...(body.tools ? { tool_calls: calls } : {}) };
    const choices = [{ index: 0, message, finish_reason: body.tools ? "tool_calls" : "stop" }];
    const usage = { prompt_tokens: 3, completion_tokens: 4, total_tokens: 7 };
    return say(response, 200, { ...common, object: "chat.completion", choices, usage });
  }
  response.writeHead(200, { "content-type": "text/event-stream" });
  const write = (delta: Body, finish_reason: string | null = null) => {
    const choices = [{ index: 0, delta, finish_reason }];
    response.write(`data: ${JSON.stringify({ ...common, object: "chat.completion.chunk", choices })}\n\n`);
  };
  write({ role: "assistant", content: "" });
  for (const word of `You said: ${asked}`.split(/(?= )/)) write({ content: word });
  if (asked.includes("silence")) return; // and no end
  write({}, "stop");
  response.end("data: [DONE]\n\n");
}

async function batch(request: IncomingMessage, response: ServerResponse): Promise<void> {
  if (request.url?.endsWith("/results")) {
    response.writeHead(200, { "content-type": "application/x-jsonl" });
    return void response.end('{"custom_id":"1","result":{"type":"canceled"}}\n{"custom_id":"2","result":{"type":"expired"}}\n');
  }
  const results_url = `http://${request.headers.host}/v1/messages/batches/msgbatch_1/results`;
  say(response, 200, { id: "msgbatch_1", type: "message_batch", processing_status: "ended", results_url });
}

async function json(request: IncomingMessage): Promise<Body> {
  return (await new Response(Readable.toWeb(request) as ReadableStream).json()) as Body;
}

function say(response: ServerResponse, status: number, body: Body): void {
  response.writeHead(status, { "content-type": "application/json", "request-id": "req_upstream" });
  response.end(JSON.stringify(body));
}
