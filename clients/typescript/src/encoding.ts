/** Content codings undone, as fetch undoes them: in the order opposite to the header's, and not at all if one is unknown. */
import { pipeline, Readable, type Transform } from "node:stream";
import * as zlib from "node:zlib";

// A body that ends early is given out as far as it came, as in fetch.
const LENIENT = { finishFlush: zlib.constants.Z_SYNC_FLUSH };
const LENIENT_BROTLI = { finishFlush: zlib.constants.BROTLI_OPERATION_FLUSH };

// Node has it from 22.15 on; older ones hand the body on as it is.
const createZstd = (zlib as { createZstdDecompress?: () => Transform }).createZstdDecompress;

/** Undoes *codings*, the value of `content-encoding`; null means that there are none. */
export function decoded(chunks: AsyncIterable<Uint8Array>, codings: string | null): AsyncIterable<Uint8Array> {
  const names = (codings ?? "")
    .toLowerCase()
    .split(",")
    .map((name) => name.trim())
    .filter((name) => name && name !== "identity");
  if (!names.every(isKnown)) return chunks;
  return names.reduceRight((undone, name) => decode(undone, name), chunks);
}

function isKnown(name: string): boolean {
  return ["gzip", "x-gzip", "deflate", "br"].includes(name) || (name === "zstd" && createZstd !== undefined);
}

async function* decode(chunks: AsyncIterable<Uint8Array>, name: string): AsyncGenerator<Uint8Array> {
  const iterator = chunks[Symbol.asyncIterator]();
  const first = await iterator.next();
  if (first.done) return;
  const source = Readable.from(from(first.value, iterator), { objectMode: false });
  // The callback keeps an error from being thrown at the process; the iteration throws it, too.
  yield* pipeline(source, decoder(name, first.value), () => {}) as AsyncIterable<Uint8Array>;
}

async function* from(first: Uint8Array, rest: AsyncIterator<Uint8Array>): AsyncGenerator<Uint8Array> {
  yield first;
  yield* { [Symbol.asyncIterator]: () => rest };
}

function decoder(name: string, first: Uint8Array): Transform {
  if (name === "br") return zlib.createBrotliDecompress(LENIENT_BROTLI);
  if (name === "zstd" && createZstd) return createZstd();
  if (name !== "deflate") return zlib.createGunzip(LENIENT);
  // By the standard it is zlib's format, but some send it bare; the first byte tells.
  return ((first[0] ?? 0) & 0x0f) === 0x08 ? zlib.createInflate(LENIENT) : zlib.createInflateRaw(LENIENT);
}
