/** What `headraceFetch` sends, and what it makes of what comes back. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, test } from "node:test";
import * as zlib from "node:zlib";

import { HeadraceError, headraceFetch } from "../src/index.js";
import { type Behaviour, chunk, gather, head, listen, mirror, peer, type Seen } from "./peer.js";
import { until } from "./stage.js";

const URL = "http://api.test/v1/things?a=b%20c&d";

async function mirrored(...[input, init]: Parameters<typeof fetch>): Promise<Omit<Seen, "body"> & { body: Buffer }> {
  const response = await headraceFetch(await peer(mirror))(input, init);
  const seen = (await response.json()) as Omit<Seen, "body"> & { body: string };
  return { ...seen, body: Buffer.from(seen.body, "base64") };
}

function streamOf(...pieces: (string | Uint8Array)[]): ReadableStream<Uint8Array> {
  return ReadableStream.from(pieces.map((piece) => Buffer.from(piece))) as ReadableStream<Uint8Array>;
}

/** Writes *text* and returns all that the coder has for it so far. */
async function flushed(coder: zlib.Gzip | zlib.BrotliCompress, text: string): Promise<Buffer> {
  const pieces: Buffer[] = [];
  const gather = (piece: Buffer) => pieces.push(piece);
  coder.on("data", gather).write(text);
  await new Promise<void>((done) => coder.flush(done));
  coder.off("data", gather);
  return Buffer.concat(pieces);
}

describe("a request", () => {
  test("keeps its method, path, query and headers, and says where it was meant to go", async () => {
    const seen = await mirrored(URL, { method: "DELETE", headers: { "x-api-key": "k", "anthropic-beta": "a, b" } });
    assert.deepEqual([seen.method, seen.path, seen.query], ["DELETE", "/v1/things", "a=b%20c&d"]);
    assert.equal(seen.headers["x-api-key"], "k");
    assert.equal(seen.headers["anthropic-beta"], "a, b");
    assert.equal(seen.headers["host"], "api.test");
    assert.equal(seen.headers["x-forwarded-proto"], "http");
    assert.equal(seen.headers["accept-encoding"], "identity");
    assert.equal(seen.body.length, 0);
  });

  test("with a string goes in one part, with its length and type", async () => {
    const seen = await mirrored(URL, { method: "POST", body: "grüße" });
    assert.equal(seen.body.toString(), "grüße");
    assert.equal(seen.parts, 1);
    assert.equal(seen.headers["content-length"], "7");
    assert.match(seen.headers["content-type"] ?? "", /text\/plain/);
  });

  test("larger than a part is cut and whole on the other side", async () => {
    const body = Buffer.alloc(5_000_000, "0123456789");
    const seen = await mirrored(URL, { method: "POST", body });
    assert.ok(seen.body.equals(body));
    assert.equal(seen.parts, 5);
  });

  test("may be a stream, without saying duplex", async () => {
    const seen = await mirrored(URL, { method: "POST", body: streamOf("one ", "two ", "three") });
    assert.equal(seen.body.toString(), "one two three");
    assert.equal(seen.headers["content-length"], undefined);
  });

  test("may be a Blob, a form or search parameters", async () => {
    const form = new FormData();
    form.set("file", new Blob(["wheel"]), "mill.txt");
    const sent = await mirrored(URL, { method: "POST", body: form });
    const type = sent.headers["content-type"] ?? "";
    const back = await new Response(sent.body, { headers: { "content-type": type } }).formData();
    assert.equal(await (back.get("file") as File).text(), "wheel");
    assert.equal(
      (await mirrored(URL, { method: "PUT", body: new Blob(["blob"], { type: "a/b" }) })).headers["content-type"],
      "a/b",
    );
    assert.equal((await mirrored(URL, { method: "PUT", body: new URLSearchParams({ a: "ü" }) })).body.toString(), "a=%C3%BC");
  });

  test("may be a Request, and gets the options' headers where it has none", async () => {
    const fetch = headraceFetch(await peer(mirror), { caller: "tests", headers: { "x-api-key": "default", "x-more": "1" } });
    const response = await fetch(new Request(URL, { method: "POST", body: "b", headers: { "x-api-key": "own" } }));
    const { headers } = (await response.json()) as Seen;
    assert.deepEqual([headers["x-headrace-caller"], headers["x-api-key"], headers["x-more"]], ["tests", "own", "1"]);
  });

  test("is read no faster than the other side takes it", async () => {
    let read = 0;
    let release = (): void => {};
    const held = new Promise<void>((done) => (release = done));
    const fetch = headraceFetch(
      await peer(async function* (parts) {
        await held;
        const { body } = await gather(parts);
        yield head(200);
        yield chunk(String(body.length));
      }),
    );
    const body = new ReadableStream({
      pull: (controller) => (read++ < 300 ? controller.enqueue(Buffer.alloc(100_000)) : controller.close()),
    });
    const response = fetch(URL, { method: "POST", body });
    let before = -1;
    await until(() => (before === read && read > 0) || ((before = read), false));
    assert.ok(read < 50, `${read} of 300 chunks were read though nobody took them`);
    release();
    assert.equal(await (await response).text(), "30000000");
  });

  test("that is refused before it was read whole has its answer all the same", async () => {
    const fetch = headraceFetch(
      await peer(async function* () {
        yield head(413, { "content-type": "text/plain" });
        yield chunk("too large");
      }),
    );
    const endless = new ReadableStream({ pull: (controller) => controller.enqueue(Buffer.alloc(100_000)) });
    const response = await fetch(URL, { method: "POST", body: endless });
    assert.equal(response.status, 413);
    assert.equal(await response.text(), "too large");
  });

  test("whose body fails is a TypeError with that cause", async () => {
    const fetch = headraceFetch(await peer(mirror));
    const body = new ReadableStream({ pull: (controller) => controller.error(new Error("the disk is gone")) });
    await assert.rejects(fetch(URL, { method: "POST", body }), (error: TypeError) => {
      assert.ok(error instanceof TypeError);
      assert.match(String((error.cause as Error).message), /the disk is gone/);
      return true;
    });
  });
});

describe("a response", () => {
  test("has status, headers in their order and number, url and body", async () => {
    const fetch = headraceFetch(
      await peer(async function* () {
        yield {
          part: {
            case: "head",
            value: {
              status: 404,
              headers: [
                { name: "set-cookie", value: "a=1" },
                { name: "set-cookie", value: "b=2" },
                { name: "x-latin", value: "é" },
              ],
            },
          },
        };
        yield chunk("no ");
        yield chunk("such thing");
      }),
    );
    const response = await fetch(URL);
    assert.deepEqual([response.status, response.ok, response.url], [404, false, URL]);
    assert.deepEqual(response.headers.getSetCookie(), ["a=1", "b=2"]);
    assert.equal(response.headers.get("x-latin"), "é");
    assert.equal(await response.text(), "no such thing");
  });

  test("without a body has none", async () => {
    const fetch = headraceFetch(
      await peer(async function* ({}) {
        yield head(204);
      }),
    );
    assert.equal((await fetch(URL)).body, null);
    const headed = headraceFetch(
      await peer(async function* () {
        yield head(200, { "content-length": "10" });
      }),
    );
    assert.equal((await headed(URL, { method: "HEAD" })).body, null);
  });

  test("comes as it is said", async () => {
    let say = (_: string): void => {};
    const fetch = headraceFetch(
      await peer(async function* () {
        yield head(200);
        for (let word = ""; word !== "end"; yield chunk(word)) word = await new Promise<string>((said) => (say = said));
      }),
    );
    const reader = (await fetch(URL)).body!.getReader();
    for (const word of ["one", "two", "end"]) {
      const read = reader.read();
      await until(() => (say(word), true));
      assert.equal(Buffer.from((await read).value!).toString(), word);
    }
    assert.equal((await reader.read()).done, true);
  });

  const codings: [string, (plain: Buffer) => Buffer][] = [
    ["gzip", zlib.gzipSync],
    ["deflate", zlib.deflateSync],
    ["deflate", zlib.deflateRawSync],
    ["br", zlib.brotliCompressSync],
    ["gzip, br", (plain) => zlib.brotliCompressSync(zlib.gzipSync(plain))],
    ["x-unknown", (plain) => plain],
  ];
  for (const [name, encode] of codings) {
    test(`coded as ${name} is decoded`, async () => {
      const plain = Buffer.alloc(300_000, "a headrace brings water to a mill. ");
      const fetch = headraceFetch(
        await peer(async function* () {
          yield head(200, { "content-encoding": name });
          for (let rest = encode(plain); rest.length; rest = rest.subarray(1000)) yield chunk(rest.subarray(0, 1000));
        }),
      );
      assert.ok(Buffer.from(await (await fetch(URL)).arrayBuffer()).equals(plain));
    });
  }

  for (const [name, coder] of [
    ["gzip", zlib.createGzip()],
    ["br", zlib.createBrotliCompress()],
  ] as const) {
    test(`coded as ${name} is decoded as far as it has come`, async () => {
      let read = (): void => {};
      const fetch = headraceFetch(
        await peer(async function* (_, { signal }) {
          yield head(200, { "content-encoding": name });
          for (const event of ["one", "two"]) {
            yield chunk(await flushed(coder, event));
            await new Promise<void>((done) => (read = done));
          }
          await once(signal, "abort"); // it never ends
        }),
      );
      const reader = (await fetch(URL)).body!.getReader();
      for (const event of ["one", "two"]) {
        assert.equal(Buffer.from((await reader.read()).value!).toString(), event);
        read();
      }
      await reader.cancel();
    });
  }

  test("coded and cut off is decoded as far as it came", async () => {
    const fetch = headraceFetch(
      await peer(async function* () {
        yield head(200, { "content-encoding": "gzip" });
        yield chunk(zlib.gzipSync("whole").subarray(0, -8)); // without its checksum
      }),
    );
    assert.equal(await (await fetch(URL)).text(), "whole");
  });

  test("can be read into one's own buffer", async () => {
    const fetch = headraceFetch(
      await peer(async function* () {
        yield head(200);
        yield chunk("abcdef");
      }),
    );
    const reader = (await fetch(URL)).body!.getReader({ mode: "byob" });
    const text: string[] = [];
    for (let part = await reader.read(new Uint8Array(4)); !part.done; part = await reader.read(new Uint8Array(4))) {
      text.push(Buffer.from(part.value).toString());
    }
    assert.deepEqual(text, ["abcd", "ef"]);
  });

  test("coded wrongly ends in an error", async () => {
    const fetch = headraceFetch(
      await peer(async function* () {
        yield head(200, { "content-encoding": "gzip" });
        yield chunk("this is not gzip");
      }),
    );
    await assert.rejects((await fetch(URL)).text(), { name: "TypeError", message: "terminated" });
  });

  test("that nobody reads is not sent, and does not hold up others", async () => {
    let sent = 0;
    const address = await peer(async function* (parts) {
      const { path } = await gather(parts);
      yield head(200);
      if (path === "/v1/small") return yield chunk("small");
      for (; sent < 2000; sent++) yield chunk(Buffer.alloc(10_000));
    });
    const fetch = headraceFetch(address);
    const large = await fetch("http://api.test/v1/large");
    let before = -1;
    await until(() => (before === sent && sent > 0) || ((before = sent), false));
    assert.ok(sent < 200, `${sent} of 2000 chunks were sent though nobody read them`);
    assert.equal(await (await fetch("http://api.test/v1/small")).text(), "small");
    assert.equal((await large.arrayBuffer()).byteLength, 20_000_000);
  });

  test("that breaks off is a TypeError while it is read", async () => {
    const fetch = headraceFetch(
      await peer(async function* () {
        yield head(200);
        yield chunk("half");
        throw new Error("gone");
      }),
    );
    const response = await fetch(URL);
    await assert.rejects(response.text(), (error: TypeError) => {
      assert.deepEqual([error.name, error.message], ["TypeError", "terminated"]);
      assert.ok(error.cause instanceof HeadraceError && error.cause.code === "INTERNAL");
      return true;
    });
  });

  test("that never came is a TypeError with the system's cause", async () => {
    await assert.rejects(headraceFetch("127.0.0.1:1")(URL), (error: TypeError) => {
      assert.deepEqual([error.name, error.message], ["TypeError", "fetch failed"]);
      assert.equal((error.cause as NodeJS.ErrnoException).code, "ECONNREFUSED");
      return true;
    });
    await assert.rejects(headraceFetch("unix:/nowhere/headrace.sock")(URL), { name: "TypeError" });
  });
});

test("a daemon that goes away and comes back is found again", async () => {
  const directory = mkdtempSync(join(tmpdir(), "hr"));
  const path = join(directory, "peer.sock");
  const fetch = headraceFetch(`unix:${path}`);
  let arrived = (): void => {};
  const silent: Behaviour = async function* (_, { signal }) {
    yield head(200);
    arrived();
    await once(signal, "abort");
  };
  const kill = await listen(path, silent);
  const called = new Promise<void>((done) => (arrived = done));
  const response = await fetch(URL);
  await called;
  await kill();
  await assert.rejects(response.text(), (error: TypeError) => {
    assert.equal((error.cause as HeadraceError).code, "UNAVAILABLE");
    return error instanceof TypeError;
  });
  await assert.rejects(fetch(URL), TypeError);
  const stop = await listen(path, mirror);
  assert.equal((await fetch(URL)).status, 200);
  fetch.close();
  await stop();
  rmSync(directory, { recursive: true });
});

describe("an abort", () => {
  const reason = new Error("changed my mind");

  /** Says one word and then nothing, and knows whether it was hung up on. */
  async function waiting(): Promise<{ address: string; hungUp: () => boolean; began: () => boolean }> {
    let [aborted, started] = [false, false];
    const call: Behaviour = async function* (_, { signal }) {
      started = true;
      signal.addEventListener("abort", () => (aborted = true));
      yield head(200);
      yield chunk("word");
      await once(signal, "abort");
    };
    return { address: await peer(call), hungUp: () => aborted, began: () => started };
  }

  test("before the call: nothing is sent, and the reason is thrown", async () => {
    const { address, began } = await waiting();
    await assert.rejects(headraceFetch(address)(URL, { signal: AbortSignal.abort(reason) }), reason);
    assert.equal(began(), false);
  });

  test("before the response, with a stuck body: the reason is thrown, the body is cancelled, the daemon hears", async () => {
    let heard = false;
    let cancelled: unknown;
    const fetch = headraceFetch(
      await peer(async function* (_, { signal }) {
        yield* []; // nothing, ever
        await once(signal, "abort");
        heard = true;
      }),
    );
    const control = new AbortController();
    let pulls = 0;
    const body = new ReadableStream({
      pull: (controller) => (pulls++ ? new Promise<void>(() => {}) : controller.enqueue(Buffer.from("first"))),
      cancel: (why) => void (cancelled = why),
    });
    const response = fetch(URL, { method: "POST", body, signal: control.signal });
    await until(() => pulls > 1);
    control.abort(reason);
    await assert.rejects(response, reason);
    await until(() => heard && cancelled !== undefined);
    assert.equal(cancelled, reason);
  });

  test("in the middle of the response: the read throws the reason, and the daemon hears", async () => {
    const { address, hungUp } = await waiting();
    const control = new AbortController();
    const response = await headraceFetch(address)(URL, { signal: control.signal });
    const reader = response.body!.getReader();
    await reader.read();
    const more = reader.read();
    control.abort(reason);
    await assert.rejects(more, reason);
    await until(hungUp);
  });

  test("by cancelling the body: the daemon hears", async () => {
    const { address, hungUp } = await waiting();
    await (await headraceFetch(address)(URL)).body!.cancel();
    await until(hungUp);
  });

  test("leaves nothing behind on the signal", async () => {
    const fetch = headraceFetch(await peer(mirror));
    const { signal } = new AbortController();
    let listeners = 0;
    const { addEventListener, removeEventListener } = signal;
    signal.addEventListener = (...args: unknown[]) => (listeners++, Reflect.apply(addEventListener, signal, args));
    signal.removeEventListener = (...args: unknown[]) => (listeners--, Reflect.apply(removeEventListener, signal, args));
    for (let call = 0; call < 3; call++) await (await fetch(URL, { signal })).text();
    assert.equal(listeners, 0);
  });
});

describe("an address", () => {
  for (const address of ["", "unix:", "http://host:1/path", "a b"]) {
    test(`cannot be ${JSON.stringify(address)}`, () => assert.throws(() => headraceFetch(address), TypeError));
  }
});
