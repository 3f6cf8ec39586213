/** A request taken apart into the messages of `ApiService.Call`. */
import type { MessageInitShape } from "@bufbuild/protobuf";

import type { CallRequestSchema } from "./gen/headrace/v1/api_service_pb.js";

/** One message. */
export type Part = MessageInitShape<typeof CallRequestSchema>;

// Far below what one message may have (64 MB), far above what a frame has.
const MAX_PART = 1 << 20;

/**
 * Yields the head with the beginning of the body, then the rest of the body as it can be read.
 *
 * The body is cancelled when *signal* aborts, even if it is stuck in a read that never ends.
 */
export async function* requestParts(request: Request, signal: AbortSignal): AsyncGenerator<Part, void> {
  const pieces = bodyPieces(request.body, signal);
  const first = await pieces.next();
  const head = requestHead(request, first.done ? new Uint8Array() : first.value);
  yield { part: { case: "head", value: head } };
  for await (const piece of pieces) yield { part: { case: "chunk", value: piece } };
}

/** Returns the number of bytes of a body that has it before it is sent. */
export function byteLength(body: unknown): number | undefined {
  if (typeof body === "string") return Buffer.byteLength(body);
  if (body instanceof URLSearchParams) return Buffer.byteLength(body.toString());
  if (body instanceof ArrayBuffer || ArrayBuffer.isView(body)) return body.byteLength;
  return body instanceof Blob ? body.size : undefined;
}

function requestHead(request: Request, body: Uint8Array) {
  const { pathname, search } = new URL(request.url);
  const headers = [...request.headers].map(([name, value]) => ({ name, value }));
  return { method: request.method, path: pathname, query: search.slice(1), headers, body };
}

async function* bodyPieces(body: ReadableStream<Uint8Array> | null, signal: AbortSignal): AsyncGenerator<Uint8Array, void> {
  if (!body) return;
  const reader = body.getReader();
  const cancel = () => void reader.cancel(signal.reason).catch(() => {});
  signal.addEventListener("abort", cancel, { once: true });
  if (signal.aborted) cancel();
  for (let { done, value } = await reader.read(); !done; { done, value } = await reader.read()) {
    if (!(value instanceof Uint8Array)) throw new TypeError("a body's chunks must be Uint8Array");
    for (let at = 0; at < value.length; at += MAX_PART) yield value.subarray(at, at + MAX_PART);
  }
}
