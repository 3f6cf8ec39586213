/**
 * A `fetch` whose requests travel over gRPC: `ApiService.Call` carries HTTP as it is, in parts, in both directions.
 *
 * The request goes out as its body is read and the response comes in as its body is read: nothing is buffered but what
 * HTTP/2's flow control lets pass, so a slow reader slows the daemon down and nobody else. What differs from the built-in
 * fetch: redirects are handed back and not followed, and `statusText` is empty, as in HTTP/2.
 */
import { setMaxListeners } from "node:events";

import { type Client, createClient } from "@connectrpc/connect";

import { Channel } from "./channel.js";
import { decoded } from "./encoding.js";
import { HeadraceError } from "./errors.js";
import { ApiService, type CallResponse } from "./gen/headrace/v1/api_service_pb.js";
import { optionsHeaders } from "./options.js";
import { byteLength, type Part, requestParts } from "./request.js";
import type { CallDefaults } from "./types.js";

/** What is added to every request, as headers; those that a request has win. */
export interface FetchOptions extends CallDefaults {
  /** Further headers. */
  headers?: ConstructorParameters<typeof Headers>[0];
}

/** A fetch with a connection that can be closed. */
export type HeadraceFetch = typeof globalThis.fetch & {
  /** Closes the connection. Not needed for the process to end. */
  close(): void;
};

const NULL_BODY = new Set([101, 204, 205, 304]);

/**
 * Returns a `fetch` that sends every request to the daemon at *address*, whatever host its URL names.
 *
 * The URL's host and scheme travel as `host` and `x-forwarded-proto`. Failures are those of fetch: `TypeError` with a `cause`
 * (the system's error, or a `HeadraceError`), or the reason of the signal.
 */
export function headraceFetch(address: string | Channel, options: FetchOptions = {}): HeadraceFetch {
  const channel = typeof address === "string" ? new Channel(address) : address;
  const client = createClient(ApiService, channel.transport);
  const fetch = async (input: string | URL | Request, init?: RequestInit): Promise<Response> => {
    const signal = init?.signal ?? (input instanceof Request ? input.signal : undefined);
    const request = toRequest(input, init);
    addHeaders(request.headers, new URL(request.url), options, byteLength(init?.body));
    return new Exchange(client, request, signal).response();
  };
  return Object.assign(fetch as typeof globalThis.fetch, { close: () => channel.close() });
}

function toRequest(input: string | URL | Request, init: RequestInit | undefined): Request {
  // The signal is watched by us. Without `duplex` the constructor refuses a streamed body, though it has only one value.
  const { signal: _, ...rest } = init ?? {};
  return new Request(input, { ...rest, ...(rest.body ? { duplex: "half" } : {}) } as RequestInit);
}

function addHeaders(headers: Headers, url: URL, options: FetchOptions, length: number | undefined): void {
  const add = (name: string, value: string) => headers.has(name) || headers.set(name, value);
  new Headers(options.headers).forEach((value, name) => add(name, value));
  optionsHeaders({}, options).forEach((value, name) => add(name, value));
  if (length !== undefined) add("content-length", String(length));
  add("host", url.host);
  add("x-forwarded-proto", url.protocol.slice(0, -1));
  add("accept", "*/*");
  // Between us and the daemon compression costs more than it saves. Who asks for it all the same gets it decoded.
  add("accept-encoding", "identity");
}

/** One request and its response, from the first byte to whichever end comes first: the body's, an error, a cancel, an abort. */
class Exchange {
  readonly #request: Request;
  readonly #caller: AbortSignal | undefined;
  readonly #rpc = new AbortController();
  readonly #parts: AsyncIterator<CallResponse>;
  readonly #onAbort = () => this.#end(this.#caller?.reason);

  constructor(client: Client<typeof ApiService>, request: Request, caller: AbortSignal | undefined) {
    this.#request = request;
    this.#caller = caller;
    caller?.throwIfAborted();
    if (caller) setMaxListeners(0, caller); // one signal may well stop a thousand calls
    caller?.addEventListener("abort", this.#onAbort, { once: true });
    const parts: AsyncIterable<Part> = requestParts(request, this.#rpc.signal);
    this.#parts = client.call(parts, { signal: this.#rpc.signal })[Symbol.asyncIterator]();
  }

  async response(): Promise<Response> {
    const part = await this.#next("fetch failed");
    if (part?.case !== "head") throw this.#failure("fetch failed", new Error("the response has no head"));
    const headers = new Headers(part.value.headers.map(({ name, value }): [string, string] => [name, value]));
    const response = new Response(this.#body(part.value.status, headers), { status: part.value.status, headers });
    Object.defineProperty(response, "url", { value: this.#request.url });
    return response;
  }

  #body(status: number, headers: Headers): ReadableStream<Uint8Array> | null {
    if (NULL_BODY.has(status) || this.#request.method === "HEAD") {
      void this.#drain();
      return null;
    }
    const chunks = decoded(this.#chunks(), headers.get("content-encoding"))[Symbol.asyncIterator]();
    // Of bytes, and so without a queue of its own: it is read from the network when, and only when, somebody reads.
    return new ReadableStream({
      type: "bytes",
      pull: (controller) => this.#pull(controller, chunks),
      cancel: (reason) => this.#end(reason),
    });
  }

  async #pull(controller: ReadableByteStreamController, chunks: AsyncIterator<Uint8Array>): Promise<void> {
    try {
      const { done, value } = await chunks.next();
      // A copy: enqueue takes the buffer away from its owner, and a chunk is a part of a message's or a pool's buffer.
      if (!done) return controller.enqueue(new Uint8Array(value));
      controller.close();
      controller.byobRequest?.respond(0);
    } catch (error) {
      controller.error(this.#failure("terminated", error));
    }
  }

  async *#chunks(): AsyncGenerator<Uint8Array> {
    for (let part = await this.#next("terminated"); part; part = await this.#next("terminated")) {
      if (part.case === "chunk" && part.value.length) yield part.value;
    }
  }

  async #next(failure: string): Promise<CallResponse["part"] | undefined> {
    try {
      if (this.#rpc.signal.aborted) throw this.#rpc.signal.reason;
      const { done, value } = await this.#parts.next();
      if (!done) return value.part;
      this.#forget();
      return undefined;
    } catch (error) {
      throw this.#failure(failure, error);
    }
  }

  async #drain(): Promise<void> {
    try {
      while (await this.#next("terminated"));
    } catch {
      // The response was complete without it.
    }
  }

  #failure(message: string, error: unknown): unknown {
    this.#end(error);
    if (this.#caller?.aborted) return this.#caller.reason;
    if (error instanceof TypeError) return error; // ours already
    const failure = HeadraceError.from(error);
    return new TypeError(message, { cause: systemError(failure) ?? failure });
  }

  #end(reason: unknown): void {
    this.#forget();
    this.#rpc.abort(reason);
  }

  #forget(): void {
    this.#caller?.removeEventListener("abort", this.#onAbort);
  }
}

// What Node itself said, if it did: such as ECONNREFUSED. People look for it in `cause.code`.
function systemError(error: unknown): unknown {
  for (let at = error; at instanceof Error; at = at.cause) {
    if ("syscall" in at) return at;
  }
  return undefined;
}
