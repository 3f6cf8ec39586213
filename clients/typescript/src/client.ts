/**
 * The typed client: what the daemon offers, in plain JSON, over one connection.
 *
 * Messages and tickets go over the typed services; what has none goes over `ApiService.Call`, as HTTP would. Every failure is a
 * `HeadraceError`, but for an abort: that throws the signal's reason. Nothing is tried again here; the daemon has done that.
 */
import type { DescService } from "@bufbuild/protobuf";
import { type CallOptions as RpcOptions, type Client, createClient } from "@connectrpc/connect";
import { durationFromMs } from "@bufbuild/protobuf/wkt";

import { plainMessage, plainOrigin, plainTicket, present } from "./answers.js";
import { Channel } from "./channel.js";
import { failure, settled } from "./errors.js";
import { headraceFetch, type HeadraceFetch } from "./fetch.js";
import { StreamEventSchema } from "./gen/headrace/v1/events_pb.js";
import { MessageParamsSchema } from "./gen/headrace/v1/messages_pb.js";
import { MessagesService } from "./gen/headrace/v1/messages_service_pb.js";
import { type Ticket as WireTicket, TicketState as WireState } from "./gen/headrace/v1/tickets_pb.js";
import { TicketsService } from "./gen/headrace/v1/tickets_service_pb.js";
import { Http, type Json } from "./http.js";
import { toJson, toMessage } from "./json.js";
import { optionsMessage } from "./options.js";
import type {
  Answer,
  CallDefaults,
  CallOptions,
  CountParams,
  MessageParams,
  Origin,
  StreamEvent,
  Ticket,
  TicketState,
} from "./types.js";

/** What holds for every call of a client. */
export interface ClientOptions extends CallDefaults {
  /** The key, where it asks for one. */
  apiKey?: string;
}

/** A client of one daemon. */
export class Headrace {
  readonly messages: Messages;
  readonly tickets: Tickets;
  readonly models: Models;
  readonly batches: Batches;
  /** A fetch on the same connection: `new Anthropic({ fetch: headrace.fetch, apiKey: "unused" })`. */
  readonly fetch: HeadraceFetch;
  readonly #channel: Channel;

  /** Takes `unix:/path` or `host:port`. Connects with the first call. */
  constructor(address: string, { apiKey, ...defaults }: ClientOptions = {}) {
    this.#channel = new Channel(address, apiKey);
    const headers: Record<string, string> = apiKey === undefined ? {} : { "x-api-key": apiKey };
    this.fetch = headraceFetch(this.#channel, { ...defaults, headers });
    const http = new Http(this.fetch, defaults);
    this.messages = new Messages(this.stub(MessagesService), http, defaults);
    this.tickets = new Tickets(this.stub(TicketsService), defaults);
    this.models = new Models(http);
    this.batches = new Batches(http);
  }

  /** Returns a typed stub of any service of `@headrace/client/v1/*`; it throws `ConnectError`. */
  stub<S extends DescService>(service: S): Client<S> {
    return createClient(service, this.#channel.transport);
  }

  /** Closes the connection. Not needed for the process to end. */
  close(): void {
    this.#channel.close();
  }
}

/** Calls to the Messages API. */
export class Messages {
  constructor(
    readonly stub: Client<typeof MessagesService>,
    private readonly http: Http,
    private readonly defaults: CallDefaults,
  ) {}

  /** Asks for one answer. */
  async create<P extends MessageParams>(params: P, options: CallOptions = {}): Promise<Answer> {
    const answer = await settled(this.stub.createMessage(this.#request(params, options), rpcOptions(options)), options);
    return { message: plainMessage(present(answer.message)), origin: plainOrigin(present(answer.origin)) };
  }

  /** Asks for one answer, event by event, once it is iterated over. Leaving the loop early gives the call up. */
  stream<P extends MessageParams>(params: P, options: CallOptions = {}): MessageStream {
    return new MessageStream((signal) => this.#events(params, { ...options, signal }), options.signal);
  }

  /** Hands in a call to be answered later; `answerTimeoutMs`, up to 24 hours, is the time it has. */
  async submit<P extends MessageParams>(params: P, options: CallOptions & { answerTimeoutMs?: number } = {}): Promise<Ticket> {
    const { answerTimeoutMs: time } = options;
    const request = { ...this.#request(params, options), answerTimeout: time === undefined ? undefined : durationFromMs(time) };
    return ticketOf(this.stub.submitMessage(request, rpcOptions(options)), options);
  }

  /** Counts the tokens of what would be asked. */
  countTokens<P extends CountParams>(params: P, options: CallOptions = {}): Promise<{ input_tokens: number }> {
    return this.http.json("POST", "/v1/messages/count_tokens", options, params);
  }

  #events(params: MessageParams, options: CallOptions) {
    return this.stub.streamMessage(this.#request(params, options), rpcOptions(options));
  }

  #request(params: MessageParams, options: CallOptions) {
    return { params: toMessage(MessageParamsSchema, params), options: optionsMessage(options, this.defaults) };
  }
}

type Events = ReturnType<Client<typeof MessagesService>["streamMessage"]>;

/** The events of one answer; to be iterated over once. */
export class MessageStream implements AsyncIterable<StreamEvent> {
  /** Where the answer comes from; there from the first event on. */
  origin: Origin | undefined;
  readonly #rpc = new AbortController();

  constructor(
    private readonly call: (signal: AbortSignal) => Events,
    private readonly signal: AbortSignal | undefined,
  ) {}

  async *[Symbol.asyncIterator](): AsyncGenerator<StreamEvent, void> {
    this.signal?.throwIfAborted();
    const onAbort = () => this.cancel();
    this.signal?.addEventListener("abort", onAbort, { once: true });
    try {
      for await (const { event, origin } of this.call(this.#rpc.signal)) {
        if (origin) this.origin = plainOrigin(origin);
        if (event) yield toJson(StreamEventSchema, event) as StreamEvent;
      }
    } catch (error) {
      throw failure(error, this.signal);
    } finally {
      this.signal?.removeEventListener("abort", onAbort);
      this.cancel(); // after the last event this does nothing
    }
  }

  /** Gives the call up; the iteration ends with a `HeadraceError` of the code CANCELLED. */
  cancel(): void {
    this.#rpc.abort();
  }
}

/** Calls that may outlive their RPC. A caller sees its own only. */
export class Tickets {
  constructor(
    readonly stub: Client<typeof TicketsService>,
    private readonly defaults: CallDefaults,
  ) {}

  /** Returns a ticket as it is now. */
  async get(id: string, options: CallOptions = {}): Promise<Ticket> {
    return ticketOf(this.stub.getTicket(this.#request(id, options), rpcOptions(options)), options);
  }

  /** Waits until a ticket ends, whatever its end: look at `state`. `timeoutMs` ends the waiting and not the ticket. */
  async wait(id: string, options: CallOptions = {}): Promise<Ticket> {
    return ticketOf(this.stub.waitTicket(this.#request(id, options), rpcOptions(options)), options);
  }

  /** Cancels a ticket; one that has ended stays as it is. */
  async cancel(id: string, options: CallOptions = {}): Promise<Ticket> {
    return ticketOf(this.stub.cancelTicket(this.#request(id, options), rpcOptions(options)), options);
  }

  /** Lists tickets, newest first, without their answers, page by page as they are read. */
  async *list(options: CallOptions & { state?: TicketState } = {}): AsyncGenerator<Ticket, void> {
    const state = options.state && WireState[options.state.toUpperCase() as keyof typeof WireState];
    let pageToken = "";
    do {
      const request = { state, pageToken, options: this.#request("", options).options };
      const page = await settled(this.stub.listTickets(request, rpcOptions(options)), options);
      yield* page.tickets.map(plainTicket);
      pageToken = page.nextPageToken;
    } while (pageToken);
  }

  #request(id: string, options: CallOptions) {
    return { id, options: optionsMessage(options, this.defaults) };
  }
}

/** The models there are. */
export class Models {
  constructor(private readonly http: Http) {}

  /** Lists them, page by page as they are read. */
  list(options: CallOptions = {}): AsyncGenerator<Json, void> {
    return this.http.pages("/v1/models", options);
  }

  get(id: string, options: CallOptions = {}): Promise<Json> {
    return this.http.json("GET", `/v1/models/${encodeURIComponent(id)}`, options);
  }
}

/** Message batches, upstream's own. */
export class Batches {
  constructor(private readonly http: Http) {}

  create(
    params: { requests: readonly { custom_id: string; params: MessageParams }[] },
    options: CallOptions = {},
  ): Promise<Json> {
    return this.http.json("POST", PATH, options, params);
  }

  get(id: string, options: CallOptions = {}): Promise<Json> {
    return this.http.json("GET", pathOf(id), options);
  }

  /** Lists them, newest first, page by page as they are read. */
  list(options: CallOptions = {}): AsyncGenerator<Json, void> {
    return this.http.pages(PATH, options);
  }

  cancel(id: string, options: CallOptions = {}): Promise<Json> {
    return this.http.json("POST", `${pathOf(id)}/cancel`, options);
  }

  delete(id: string, options: CallOptions = {}): Promise<Json> {
    return this.http.json("DELETE", pathOf(id), options);
  }

  /** Returns the results one by one as they arrive. */
  results(id: string, options: CallOptions = {}): AsyncGenerator<Json, void> {
    return this.http.lines(`${pathOf(id)}/results`, options);
  }
}

const PATH = "/v1/messages/batches";

function pathOf(batch: string): string {
  return `${PATH}/${encodeURIComponent(batch)}`;
}

async function ticketOf(call: Promise<{ ticket?: WireTicket }>, options: CallOptions): Promise<Ticket> {
  return plainTicket((await settled(call, options)).ticket);
}

function rpcOptions({ timeoutMs, signal }: CallOptions): RpcOptions {
  return { timeoutMs, signal };
}
