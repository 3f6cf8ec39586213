/**
 * The JSON of the Messages API as far as this package names it: field names are the API's own.
 *
 * What is asked is left open: any parameter of the API may be given, those of tomorrow included. Of what comes back the
 * common parts are typed; whatever else the API says is there, too. For every type there is, use those of
 * `@anthropic-ai/sdk`: they fit here.
 */

/** What is asked; further members are sent as they are. */
export interface MessageParams {
  model: string;
  max_tokens: number;
  messages: readonly { role: string; content: string | readonly object[] }[];
}

/** What is to be counted. */
export type CountParams = Omit<MessageParams, "max_tokens">;

export interface Message {
  id: string;
  type: "message";
  role: "assistant";
  model: string;
  content: ContentBlock[];
  stop_reason: string | null;
  stop_sequence: string | null;
  usage: Usage;
}

/** A block of an answer. The API has more types than these. */
export type ContentBlock =
  | { type: "text"; text: string; citations?: object[] | null }
  | { type: "thinking"; thinking: string; signature: string }
  | { type: "redacted_thinking"; data: string }
  | { type: "tool_use" | "server_tool_use"; id: string; name: string; input: unknown };

export interface Usage {
  input_tokens: number;
  output_tokens: number;
  cache_creation_input_tokens?: number | null;
  cache_read_input_tokens?: number | null;
}

/** An event of an answer that is being said. The API may add types. */
export type StreamEvent =
  | { type: "message_start"; message: Message }
  | { type: "content_block_start"; index: number; content_block: ContentBlock }
  | { type: "content_block_delta"; index: number; delta: ContentDelta }
  | { type: "content_block_stop"; index: number }
  | { type: "message_delta"; delta: Pick<Message, "stop_reason" | "stop_sequence">; usage: Partial<Usage> }
  | { type: "message_stop" }
  | { type: "ping" };

export type ContentDelta =
  | { type: "text_delta"; text: string }
  | { type: "input_json_delta"; partial_json: string }
  | { type: "thinking_delta"; thinking: string }
  | { type: "signature_delta"; signature: string }
  | { type: "citations_delta"; citation: object };

/** Where an answer came from and what it took. */
export interface Origin {
  /** `shared`: with another call in the air; `stale`: lapsed, given since upstream is in trouble. */
  source: "upstream" | "shared" | "cache" | "stale";
  /** Tries at upstream; 0 for a kept answer. */
  attempts: number;
  /** Seconds since upstream finished a kept answer; 0 for a new one. */
  age: number;
  /** The ticket, if the call had one. */
  ticket?: string;
  /** What the cache did, as the HTTP header `Cache-Status` says it. */
  cacheStatus: string;
  /** Upstream's `request-id`. */
  requestId: string;
}

/** An answer, and where it came from. */
export interface Answer {
  message: Message;
  origin: Origin;
}

export type TicketState = "queued" | "running" | "succeeded" | "failed" | "canceled" | "expired";

/** A call that was handed in. */
export interface Ticket {
  id: string;
  state: TicketState;
  model: string;
  createTime: Date;
  expireTime: Date;
  /** When the next attempt is due, while it is queued. */
  attemptTime?: Date;
  attempts: number;
  /** The answer and its origin, once it has succeeded; a list leaves the answer out. */
  message?: Message;
  origin?: Origin;
  /** Why there is no answer: an `Error` to look at or to throw. */
  error?: import("./errors.js").HeadraceError;
}

/** A class of traffic; the daemon's configuration may have more of them. */
export type Lane = "interactive" | "standard" | "batch" | (string & {});

/** What all calls of a client have, unless they say otherwise. */
export interface CallDefaults {
  /** Who calls, where the daemon asks for no key. */
  caller?: string;
  lane?: Lane;
  /** What calls are for, by the names that the daemon lets the caller use. A call's own go beside them, and win. */
  labels?: Readonly<Record<string, string>>;
}

/** What the cache may do for a call: RFC 9111 in words. */
export interface CacheControl {
  noStore?: boolean;
  noCache?: boolean;
  /** Seconds. */
  maxAge?: number;
  onlyIfCached?: boolean;
  /** Seconds. */
  staleIfError?: number;
}

/** How the daemon treats a call. */
export interface CallOptions extends CallDefaults {
  cacheControl?: CacheControl;
  /** Makes a repeat safe: the same key with the same call gets the same answer. */
  idempotencyKey?: string;
  /** Is sent as `anthropic-version`; else the daemon's own. */
  anthropicVersion?: string;
  /** Are sent as `anthropic-beta`. */
  betas?: readonly string[];
  /** The deadline, in milliseconds from now. */
  timeoutMs?: number;
  /** Gives the call up; it then fails with the signal's reason. */
  signal?: AbortSignal;
}
