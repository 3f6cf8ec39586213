/**
 * One HTTP/2 connection to a daemon, made when it is first needed and again when it is lost.
 *
 * An address is what gRPC calls a target: `unix:/path`, `unix:///path` or `host:port`; `http://host:port` will do, too. An idle
 * connection does not keep the process alive.
 */
import { AsyncLocalStorage } from "node:async_hooks";
import type { ClientHttp2Stream } from "node:http2";
import { connect as connectSocket } from "node:net";

import type { Interceptor, Transport } from "@connectrpc/connect";
import { createGrpcTransport, Http2SessionManager } from "@connectrpc/connect-node";

/** A connection on which any number of calls run at once. */
export class Channel {
  readonly transport: Transport;
  readonly #session: Http2SessionManager;

  /** Takes an address, and a key to present with every RPC; throws `TypeError` if it is none. Nothing is sent yet. */
  constructor(
    readonly address: string,
    apiKey?: string,
  ) {
    const { baseUrl, path } = parse(address);
    const session = path === undefined ? {} : { createConnection: () => connectSocket(path) };
    this.#session = new Sessions(baseUrl, undefined, session);
    // Both ends are on one machine or in one rack: compressing costs more than it saves.
    const interceptors = apiKey === undefined ? [tellSignal] : [present(apiKey), tellSignal];
    this.transport = createGrpcTransport({ baseUrl, sessionManager: this.#session, acceptCompression: [], interceptors });
  }

  /** Closes the connection. Calls in the air fail; a later call would connect again. */
  close(): void {
    this.#session.abort();
  }
}

/** The signal of the call that is being sent. */
const asking = new AsyncLocalStorage<AbortSignal>();

const tellSignal: Interceptor = (next) => (request) => asking.run(request.signal, () => next(request));

/**
 * Sessions whose streams are gone once their calls are given up.
 *
 * Node holds a stream open until all that has arrived of it is read. Of a call that is given up nobody reads any more: its stream
 * would be counted for ever, and a session with streams keeps the process from ending.
 */
class Sessions extends Http2SessionManager {
  override async request(...asked: Parameters<Http2SessionManager["request"]>): Promise<ClientHttp2Stream> {
    const signal = asking.getStore();
    const stream = await super.request(...asked);
    const letGo = () => void stream.destroy();
    signal?.addEventListener("abort", letGo, { once: true });
    stream.once("close", () => signal?.removeEventListener("abort", letGo));
    return stream;
  }
}

function present(apiKey: string): Interceptor {
  return (next) => (request) => {
    request.header.set("x-api-key", apiKey);
    return next(request);
  };
}

function parse(address: string): { baseUrl: string; path?: string } {
  if (address.startsWith("unix:")) {
    const path = address.replace(/^unix:(\/\/(?=\/))?/, "");
    if (path) return { baseUrl: "http://localhost", path };
  } else {
    const url = URL.canParse(address) && /^https?:/.test(address) ? address : `http://${address}`;
    if (URL.canParse(url) && new URL(url).pathname === "/") return { baseUrl: new URL(url).origin };
  }
  throw new TypeError(`${JSON.stringify(address)} is no address: expected unix:/path or host:port`);
}
