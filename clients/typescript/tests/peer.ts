/** A server of `ApiService.Call`, for what a daemon cannot be made to do: odd codings, early answers, broken ends. */
import { createServer } from "node:http2";
import type { Socket } from "node:net";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after } from "node:test";

import type { MessageInitShape } from "@bufbuild/protobuf";
import type { HandlerContext } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";

import { ApiService, type CallRequest, type CallResponseSchema } from "../src/gen/headrace/v1/api_service_pb.js";

export type Answer = MessageInitShape<typeof CallResponseSchema>;
export type Behaviour = (parts: AsyncIterable<CallRequest>, context: HandlerContext) => AsyncIterable<Answer>;

/** Listens on a unix socket of its own until the tests of the file are over; returns its address. */
export async function peer(call: Behaviour): Promise<string> {
  const directory = mkdtempSync(join(tmpdir(), "hr"));
  after(() => rmSync(directory, { recursive: true }));
  const path = join(directory, "peer.sock");
  after(await listen(path, call));
  return `unix:${path}`;
}

/** Listens on *path*; returns what ends it at once, with all its connections. */
export async function listen(path: string, call: Behaviour): Promise<() => Promise<void>> {
  const server = createServer(connectNodeAdapter({ routes: (router) => router.service(ApiService, { call }) }));
  const connections = new Set<Socket>();
  server.on("connection", (socket: Socket) => connections.add(socket));
  await new Promise<void>((listening) => server.listen(path, listening));
  return async () => {
    connections.forEach((socket) => socket.destroy()); // as a killed process would
    await new Promise((closed) => server.close(closed));
  };
}

/** A response's head. */
export function head(status: number, headers: Record<string, string> = {}): Answer {
  return {
    part: { case: "head", value: { status, headers: Object.entries(headers).map(([name, value]) => ({ name, value })) } },
  };
}

/** A part of a response's body. */
export function chunk(data: string | Uint8Array): Answer {
  return { part: { case: "chunk", value: typeof data === "string" ? Buffer.from(data) : data } };
}

/** The whole of a request, as the peer saw it. */
export interface Seen {
  method: string;
  path: string;
  query: string;
  headers: Record<string, string>;
  body: Buffer;
  parts: number;
}

export async function gather(parts: AsyncIterable<CallRequest>): Promise<Seen> {
  const seen: Partial<Seen> = { parts: 0 };
  const body: Uint8Array[] = [];
  for await (const { part } of parts) {
    seen.parts!++;
    if (part.case === "chunk") body.push(part.value);
    if (part.case !== "head") continue;
    const { method, path, query, headers } = part.value;
    Object.assign(seen, { method, path, query, headers: Object.fromEntries(headers.map(({ name, value }) => [name, value])) });
    body.push(part.value.body);
  }
  return { ...(seen as Seen), body: Buffer.concat(body) };
}

/** Answers each request with what was seen of it, as JSON; the body in base64. */
export const mirror: Behaviour = async function* (parts) {
  const seen = await gather(parts);
  yield head(200, { "content-type": "application/json" });
  yield chunk(JSON.stringify({ ...seen, body: seen.body.toString("base64") }));
};
