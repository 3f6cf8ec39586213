// Generates src/gen from ../../protos and google.rpc's error details, with the protoc of the repository's own environment and
// the plugin of node_modules. With --check it generates elsewhere and fails if src/gen differs.
import { execFileSync } from "node:child_process";
import { mkdtempSync, mkdirSync, readFileSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, relative, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const root = resolve(dirname(fileURLToPath(import.meta.url)), "..");
const protos = resolve(root, "../../protos");
const python = process.env.HEADRACE_STAGE_PYTHON ?? resolve(root, "../../.venv/bin/python");
const committed = join(root, "src/gen");

function files(directory) {
  return readdirSync(directory, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(directory, join(entry.parentPath ?? entry.path, entry.name)))
    .sort();
}

function generate(out) {
  rmSync(out, { recursive: true, force: true });
  mkdirSync(out, { recursive: true });
  // googleapis-common-protos carries the .proto files beside its modules.
  const google = execFileSync(python, ["-c", "import google.rpc; print(google.rpc.__path__[0])"], { encoding: "utf8" }).trim();
  const own = readdirSync(join(protos, "headrace/v1"))
    .sort()
    .map((name) => `headrace/v1/${name}`);
  const plugin = join(root, "node_modules/.bin/protoc-gen-es");
  const args = ["-m", "grpc_tools.protoc", `-I${protos}`, `-I${resolve(google, "../..")}`, `--plugin=protoc-gen-es=${plugin}`];
  args.push(`--es_out=${out}`, "--es_opt=target=ts,import_extension=js", ...own, "google/rpc/error_details.proto");
  execFileSync(python, args, { stdio: "inherit" });
}

function stale(fresh) {
  const [is, should] = [files(committed), files(fresh)];
  const same = (name) => is.includes(name) && readFileSync(join(committed, name)).equals(readFileSync(join(fresh, name)));
  return [...is.filter((name) => !should.includes(name)), ...should.filter((name) => !same(name))];
}

if (process.argv.includes("--check")) {
  const fresh = mkdtempSync(join(tmpdir(), "headrace-gen-"));
  try {
    generate(fresh);
    const names = stale(fresh);
    if (names.length) {
      console.error(`src/gen is stale, run npm run generate: ${names.join(", ")}`);
      process.exitCode = 1;
    }
  } finally {
    rmSync(fresh, { recursive: true, force: true });
  }
} else {
  generate(committed);
}
