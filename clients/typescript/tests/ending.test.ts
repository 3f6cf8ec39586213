/** A program ends by itself, whatever it has left lying: nobody should have to look for what holds it. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { describe, test } from "node:test";

import { stage } from "./stage.js";

const set = stage();
const INDEX = new URL("../src/index.js", import.meta.url).href;

// What a program may leave: each with the connection open, nothing closed, and all that was said arrived (`more`).
const LEFT = {
  "a stream whose rest nobody reads": `
    for await (const event of client.messages.stream(ask("left early"))) {
      await more();
      break;
    }`,
  "a stream, and a ticket that was waited for": `
    for await (const event of client.messages.stream(ask("left, and more"))) {
      await more();
      break;
    }
    const { id } = await client.messages.submit(ask("later"));
    const ticket = await client.tickets.wait(id);
    if (ticket.state !== "succeeded") throw new Error(ticket.state);`,
  "a stream that its signal ended": `
    const control = new AbortController();
    try {
      const stream = client.messages.stream(ask("aborted"), { signal: control.signal });
      for await (const event of stream) {
        await more();
        control.abort();
      }
    } catch (error) {
      if (error !== control.signal.reason) throw error;
    }`,
  "a body of fetch that was cancelled": `
    const body = JSON.stringify({ ...ask("cancelled"), stream: true });
    const response = await client.fetch("http://headrace/v1/messages", { method: "POST", body });
    const reader = response.body.getReader();
    await reader.read();
    await more();
    await reader.cancel();`,
};

function program(address: string, left: string): string {
  return `
    import { Headrace } from ${JSON.stringify(INDEX)};
    const client = new Headrace(${JSON.stringify(address)}, { caller: "tests" });
    const ask = (content) => ({ model: "claude-haiku-4-5", max_tokens: 40, messages: [{ role: "user", content }] });
    const more = () => new Promise((done) => setTimeout(done, 500));
    ${left}
    console.log("done");`;
}

for (const way of ["unix", "tcp"] as const) {
  describe(`over ${way}`, { concurrency: true }, () => {
    for (const [what, left] of Object.entries(LEFT)) {
      test(what, { timeout: 60_000 }, async (context) => {
        const text = program(way === "unix" ? set.unix : set.at.grpc, left);
        const child = spawn(process.execPath, ["--input-type=module", "-e", text], { stdio: ["ignore", "pipe", "inherit"] });
        context.after(() => child.kill("SIGKILL"));
        const ended = once(child, "exit");
        let said = "";
        for await (const chunk of child.stdout) said += String(chunk);
        assert.deepEqual([said, (await ended)[0]], ["done\n", 0]);
      });
    }
  });
}
