/** A simulator and a daemon in front of it, shared by the tests of one file; and what tests ask of the simulator. */
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { after, before } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";

/** Where things listen: URLs, a host:port and a path. */
export interface Addresses {
  http: string;
  grpc: string;
  socket: string;
  simulator: string;
}

/** A line of the simulator's journal. */
export interface Journaled {
  outcome: string;
  status: number;
  stream: boolean;
}

export class Stage {
  constructor(readonly at: Addresses) {}

  get unix(): string {
    return `unix:${this.at.socket}`;
  }

  async counts(): Promise<{ total: number; running: number; paths: Record<string, number>; outcomes: Record<string, number> }> {
    return (await fetch(`${this.at.simulator}/_simulator/counts`)).json() as never;
  }

  async journal(text: string): Promise<Journaled[]> {
    const response = await fetch(`${this.at.simulator}/_simulator/journal?text=${encodeURIComponent(text)}`);
    const body = (await response.json()) as Journaled[] | { calls: Journaled[] };
    return Array.isArray(body) ? body : body.calls;
  }

  async fault(rule: object): Promise<void> {
    await fetch(`${this.at.simulator}/_simulator/faults`, { method: "POST", body: JSON.stringify(rule) });
  }
}

/**
 * Starts a stage before the tests of this file and stops it after them; what is returned may be used inside tests only.
 *
 * *settings* are those of the daemon, such as `AUTH__DEFAULT_ROLE=admin`; with another `UPSTREAM__BASE_URL` it leaves the
 * simulator alone.
 */
export function stage(...settings: (string | Promise<string>)[]): Stage {
  const shared = new Stage({} as Addresses);
  let stop: () => Promise<void>;
  before(async () => {
    const { addresses, end } = await start(await Promise.all(settings));
    Object.assign(shared.at, addresses);
    stop = end;
  });
  after(() => stop());
  return shared;
}

async function start(settings: string[]): Promise<{ addresses: Addresses; end: () => Promise<void> }> {
  const root = repository();
  const python = process.env.HEADRACE_STAGE_PYTHON ?? join(root, ".venv/bin/python");
  const child = spawn(python, ["-m", "tests.stage", ...settings], { cwd: root, stdio: ["pipe", "pipe", "inherit"] });
  const ended = new Promise<void>((done) => child.once("exit", () => done()));
  for await (const line of createInterface(child.stdout)) {
    return { addresses: JSON.parse(line) as Addresses, end: () => (child.stdin.end(), ended) };
  }
  throw new Error("the stage did not start");
}

function repository(): string {
  let at = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(at, "pyproject.toml"))) at = resolve(at, "..");
  return at;
}

/** Waits until *condition* holds; fails after ten seconds. */
export async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  for (const end = Date.now() + 10_000; Date.now() < end; await sleep(20)) {
    if (await condition()) return;
  }
  throw new Error(`not within ten seconds: ${condition}`);
}
