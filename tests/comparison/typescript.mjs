// Does what it is told with the official TypeScript SDKs, one call for each line of JSON on standard input, and answers each with
// a line: what the SDK made of it, and each exchange below it as it went over the wire. See typescript.py.
import { createHash } from "node:crypto";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const require = createRequire(process.argv[2]); // the package.json beside the node_modules that have them
const sdks = { anthropic: require("@anthropic-ai/sdk").Anthropic, openai: require("openai").OpenAI };
const { toFile } = require("@anthropic-ai/sdk");
const { jsonSchemaOutputFormat } = require("@anthropic-ai/sdk/helpers/json-schema");

const sha256 = (bytes) => createHash("sha256").update(bytes).digest("hex");

// A fetch that takes down what goes through it.
function recording(exchanged) {
  return async (url, init) => {
    const request = new Request(url, { ...init, ...(init?.body ? { duplex: "half" } : {}) });
    const sent = Buffer.from(await request.clone().arrayBuffer());
    const response = await fetch(request);
    const { pathname, search } = new URL(request.url);
    const seen = { method: request.method, target: pathname + search, sent: sha256(sent), status: response.status };
    exchanged.push(Object.assign(seen, { headers: Object.fromEntries(response.headers), came: "" }));
    const tee = response.body && response.body.pipeThrough(noting(seen));
    return Object.defineProperty(new Response(tee, response), "url", { value: response.url });
  };
}

function noting(seen) {
  const raw = [];
  return new TransformStream({
    transform: (chunk, out) => (raw.push(chunk), out.enqueue(chunk)),
    flush: () => void (seen.came = Buffer.concat(raw).toString("base64")),
  });
}

// Names differ from Python's in their spelling only: countTokens, count_tokens.
function find(object, dotted) {
  const names = dotted.split(".");
  const last = names.pop();
  const owner = names.reduce((at, name) => at[spelled(at, name)], object);
  return owner[spelled(owner, last)].bind(owner);
}

function spelled(object, wanted) {
  const plain = wanted.replaceAll("_", "").toLowerCase();
  const name = members(object).find((each) => each.toLowerCase() === plain);
  if (name === undefined) throw new Error(`there is no ${wanted}`);
  return name;
}

const members = (object) => [...Object.keys(object), ...Object.getOwnPropertyNames(Object.getPrototypeOf(object))];

async function made(value) {
  if (Array.isArray(value)) return Promise.all(value.map(made));
  if (value === null || typeof value !== "object") return value;
  if (value.$file) return toFile(Buffer.from(value.$file.base64, "base64"), value.$file.name, { type: value.$file.type });
  if (value.$schema) return { format: jsonSchemaOutputFormat(value.$schema) };
  const entries = Object.entries(value).map(async ([name, item]) => [name, await made(item)]);
  return Object.fromEntries(await Promise.all(entries));
}

// What an SDK returned, as JSON can hold it: what is iterated is listed.
async function plain(method, returned) {
  if (method.endsWith("messages.stream")) {
    const events = [];
    for await (const event of returned) events.push(event);
    return { events, final: await returned.finalMessage() };
  }
  const value = await returned;
  if (typeof value?.arrayBuffer === "function") return sha256(Buffer.from(await value.arrayBuffer()));
  if (typeof value?.[Symbol.asyncIterator] !== "function") return value;
  const items = [];
  for await (const item of value) if (items.push(item) >= 100) break;
  return items;
}

function wrong(error) {
  if (!("status" in error)) throw error;
  const { status = null, error: body = null, message } = error;
  return { error: error.constructor.name, status, body, message };
}

async function perform({ sdk = "anthropic", url, key, headers, method, args }) {
  const exchanged = [];
  const client = new sdks[sdk]({ apiKey: key, baseURL: url, maxRetries: 0, defaultHeaders: headers, fetch: recording(exchanged) });
  try {
    const call = find(client, method);
    const given = await made(args);
    while (given.length < call.length - 1) given.push({}); // parameters that are all optional, but not their object
    return { said: await plain(method, call(...given)), exchanged };
  } catch (error) {
    return { wrong: wrong(error), exchanged };
  }
}

function* methods(object, prefix) {
  for (const name of members(object)) {
    const value = object[name];
    if (name.startsWith("_") || name === "constructor") continue;
    if (value?._client) yield* methods(value, `${prefix}${name}.`);
    else if (typeof value === "function") yield prefix + name;
  }
}

function inventory() {
  const client = new sdks.anthropic({ apiKey: "unused" });
  return Object.keys(client).filter((name) => client[name]?._client).flatMap((name) => [...methods(client[name], `${name}.`)]);
}

for await (const line of createInterface({ input: process.stdin })) {
  const asked = JSON.parse(line);
  const answer = asked.method ? await perform(asked).catch((error) => ({ failed: String(error.stack) })) : inventory();
  process.stdout.write(JSON.stringify(answer) + "\n");
}
