/** The one error of the typed client, and how errors of gRPC and of HTTP become it. */
import { type Duration, durationMs } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError } from "@connectrpc/connect";

import { ErrorInfoSchema, RetryInfoSchema } from "./gen/google/rpc/error_details_pb.js";

/** What is known of a failure beside its message. */
export interface ErrorFacts {
  /** The status code of gRPC, such as `"RESOURCE_EXHAUSTED"`. */
  code: string;
  /** The constant that says why, such as `"BUDGET_EXHAUSTED"`: the table in docs/grpc.md. Absent where the daemon said none. */
  reason?: string;
  /** Seconds after which it would be worth another try. */
  retryAfter?: number;
  /** The HTTP status, where one was given: upstream's, or that of a call carried as HTTP. */
  status?: number;
  /** The type that the API gives the error, such as `"overloaded_error"`. */
  type?: string;
  /** The API's `request-id`. */
  requestId?: string;
  /** All that varies in the message. */
  metadata?: Readonly<Record<string, string>>;
}

export interface HeadraceError extends Readonly<ErrorFacts> {}

/** A call that failed. `cause` is the error that it was made of, if it was made of one. */
export class HeadraceError extends Error {
  override readonly name = "HeadraceError";
  declare readonly metadata: Readonly<Record<string, string>>;

  constructor(message: string, facts: ErrorFacts, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    const known = Object.entries(facts).filter(([, value]) => value !== undefined);
    Object.assign(this, { metadata: {}, ...Object.fromEntries(known) });
  }

  /** Makes one of whatever a call over gRPC threw. */
  static from(error: unknown): HeadraceError {
    if (error instanceof HeadraceError) return error;
    const failure = ConnectError.from(error);
    const info = failure.findDetails(ErrorInfoSchema)[0];
    const delay = failure.findDetails(RetryInfoSchema)[0]?.retryDelay;
    const metadata = info?.metadata ?? {};
    return new HeadraceError(
      failure.rawMessage,
      {
        code: isOfConnection(failure) ? "UNAVAILABLE" : codeName(failure.code),
        reason: info?.reason,
        retryAfter: delay && seconds(delay),
        status: metadata.upstream_status ? Number(metadata.upstream_status) : undefined,
        type: metadata.upstream_type,
        requestId: metadata.request_id,
        metadata,
      },
      failure,
    );
  }

  /** Makes one of a response of HTTP whose status is an error; reads its body. */
  static async fromResponse(response: Response): Promise<HeadraceError> {
    const text = await response.text();
    const { error, request_id } = parseBody(text);
    const after = response.headers.get("retry-after");
    return new HeadraceError(error?.message ?? `status ${response.status}: ${text.slice(0, 200)}`, {
      code: codeOfStatus(response.status),
      retryAfter: after !== null && Number.isFinite(Number(after)) ? Number(after) : undefined,
      status: response.status,
      type: error?.type,
      requestId: response.headers.get("request-id") ?? request_id,
    });
  }
}

/** Waits for *call*; throws what `failure` makes of its error. */
export async function settled<T>(call: Promise<T>, { signal }: { signal?: AbortSignal }): Promise<T> {
  try {
    return await call;
  } catch (error) {
    throw failure(error, signal);
  }
}

/** Returns what the typed client throws for *error*: the signal's reason if that is why, else a `HeadraceError`. */
export function failure(error: unknown, signal: AbortSignal | undefined): unknown {
  if (signal?.aborted) return signal.reason;
  if (!(error instanceof TypeError)) return HeadraceError.from(error);
  // Of our fetch, which wraps ours or the system's.
  return error.cause instanceof HeadraceError
    ? error.cause
    : new HeadraceError(error.message, { code: "UNAVAILABLE" }, error.cause);
}

/** Converts to seconds. */
export function seconds(duration: Duration): number {
  return durationMs(duration) / 1000;
}

/** Spells a code as gRPC does. */
export function codeName(code: Code): string {
  // Connect spells it with one l.
  return code === Code.Canceled ? "CANCELLED" : (Code[code] ?? "Unknown").replace(/(?<!^)[A-Z]/g, "_$&").toUpperCase();
}

// An error of Node's own: nobody answered. Connect calls some of these INTERNAL, ABORTED or, if the connection is lost in the
// middle, CANCELLED, which would blame the daemon or the caller.
function isOfConnection(failure: ConnectError): boolean {
  if (failure.metadata.has("grpc-status")) return false;
  if (failure.rawMessage.startsWith("http/2 stream closed")) return true;
  for (let at = failure.cause; at instanceof Error; at = at.cause) {
    if ("syscall" in at || ("code" in at && String(at.code).startsWith("ERR_HTTP2_"))) return true;
  }
  return false;
}

interface ErrorBody {
  error?: { type?: string; message?: string };
  request_id?: string;
}

function parseBody(text: string): ErrorBody {
  try {
    const body: unknown = JSON.parse(text);
    return typeof body === "object" && body !== null ? body : {};
  } catch {
    return {};
  }
}

// As the daemon itself translates upstream's statuses: docs/grpc.md.
const CODES: Readonly<Record<number, string>> = {
  400: "INVALID_ARGUMENT",
  401: "UNAUTHENTICATED",
  403: "PERMISSION_DENIED",
  404: "NOT_FOUND",
  408: "UNAVAILABLE",
  409: "ABORTED",
  413: "INVALID_ARGUMENT",
  422: "INVALID_ARGUMENT",
  429: "RESOURCE_EXHAUSTED",
};

function codeOfStatus(status: number): string {
  return CODES[status] ?? (status >= 500 ? "UNAVAILABLE" : "FAILED_PRECONDITION");
}
