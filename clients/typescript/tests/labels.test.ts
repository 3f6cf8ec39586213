/** Labels and lanes of the daemon's own: typed and raw, of a call and of all calls of a client; and what was used of them. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { Headrace, HeadraceError, headraceFetch } from "../src/index.js";
import { UsageService } from "../src/gen/headrace/v1/usage_service_pb.js";
import { mirror, peer, type Seen } from "./peer.js";
import { stage, until } from "./stage.js";

const set = stage("LANE__NIGHTLY__SHARE=0.1", 'CALLER__ANN__LABELS=["env", "feature"]');
const own = { lane: "nightly", labels: { feature: "search" } };

function ask(content: string) {
  return { model: "claude-haiku-4-5", max_tokens: 40, messages: [{ role: "user", content }] };
}

/** Counts the calls by lane and labels. */
async function used(client: Headrace): Promise<Record<string, number>> {
  const { rows } = await client.stub(UsageService).getUsage({ groupBy: ["lane", "labels"] });
  return Object.fromEntries(rows.map(({ group, calls }) => [group.join(" "), Number(calls!.upstream + calls!.cache)]));
}

test("a lane may have any name, and labels go beside the client's, whichever way a call goes", async () => {
  const client = new Headrace(set.unix, { caller: "ann", labels: { env: "prod" } });
  const { max_tokens: _, ...params } = ask("count");
  const { id } = await client.messages.submit(ask("submit"), own);
  await client.tickets.wait(id);
  await client.messages.create(ask("create"), own);
  for await (const _ of client.messages.stream(ask("stream"), own));
  await client.messages.countTokens(params, own);
  await client.models.get("claude-haiku-4-5", own);
  const headers = { "x-headrace-lane": "nightly", "x-headrace-labels": "env=prod, feature=search" };
  const body = JSON.stringify(ask("raw"));
  assert.ok((await client.fetch("http://any/v1/messages", { method: "POST", headers, body })).ok);
  await until(async () => (await used(client))["nightly env=prod,feature=search"] === 6);
});

test("a client may have a lane and labels for all of its calls, typed and raw", async () => {
  const client = new Headrace(set.unix, { caller: "ann", lane: "batch", labels: { env: "test" } });
  await client.messages.create(ask("typed"));
  await client.models.get("claude-haiku-4-5");
  const body = JSON.stringify(ask("as it comes"));
  assert.ok((await client.fetch("http://any/v1/messages", { method: "POST", body })).ok);
  await until(async () => (await used(client))["batch env=test"] === 3);
});

describe("what is none", () => {
  const client = () => new Headrace(set.unix, { caller: "ann" });

  function says(pattern: RegExp): (error: unknown) => boolean {
    return (error) => {
      assert.ok(error instanceof HeadraceError, String(error));
      assert.equal(error.code, "INVALID_ARGUMENT");
      assert.match(error.message, pattern);
      return true;
    };
  }

  test("is refused by the daemon, which says what there is", async () => {
    await assert.rejects(client().messages.create(ask("x"), { lane: "nigthly" }), says(/there are .*, nightly/));
    await assert.rejects(client().models.get("x", { lane: "nigthly" }), says(/there are .*, nightly/));
    await assert.rejects(client().messages.create(ask("x"), { labels: { colour: "red" } }), says(/may send env, feature/));
    await assert.rejects(client().models.get("x", { labels: { colour: "red" } }), says(/may send env, feature/));
  });

  test("and never makes two labels of one", async () => {
    await assert.rejects(client().models.get("x", { labels: { env: "prod, feature=x" } }), TypeError);
  });
});

test("the headers of a request win over those of its fetch", async () => {
  const fetch = headraceFetch(await peer(mirror), { lane: "nightly", labels: { env: "prod", feature: "search" } });
  const seen = async (headers: Record<string, string>) => {
    const response = await fetch("http://any/", { headers });
    return ((await response.json()) as Seen).headers;
  };
  const common = await seen({});
  assert.deepEqual([common["x-headrace-lane"], common["x-headrace-labels"]], ["nightly", "env=prod, feature=search"]);
  const other = await seen({ "x-headrace-lane": "batch", "x-headrace-labels": "env=test" });
  assert.deepEqual([other["x-headrace-lane"], other["x-headrace-labels"]], ["batch", "env=test"]);
});
