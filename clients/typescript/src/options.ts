/** `CallOptions` as the RPCs take them, and as headers of a call carried as HTTP. */
import type { MessageInitShape } from "@bufbuild/protobuf";
import { durationFromMs } from "@bufbuild/protobuf/wkt";

import { type CallOptionsSchema, Lane } from "./gen/headrace/v1/options_pb.js";
import type { CacheControl, CallDefaults, CallOptions } from "./types.js";

// Those of the enum; all others go by their names.
const LANES = new Map([
  ["interactive", Lane.INTERACTIVE],
  ["standard", Lane.STANDARD],
  ["batch", Lane.BATCH],
]);

/** Returns the message; *defaults* hold where the options do not say otherwise. */
export function optionsMessage(options: CallOptions, defaults: CallDefaults): MessageInitShape<typeof CallOptionsSchema> {
  const { caller, lane = "", labels } = own(options, defaults);
  const known = LANES.get(lane);
  return {
    cacheControl: options.cacheControl && cacheMessage(options.cacheControl),
    lane: known,
    laneName: known === undefined ? lane : undefined,
    labels,
    idempotencyKey: options.idempotencyKey,
    caller,
    anthropicVersion: options.anthropicVersion,
    anthropicBetas: options.betas && [...options.betas],
  };
}

/** Returns the headers, without those that say nothing; throws `TypeError` for a label that is none. */
export function optionsHeaders(options: CallOptions, defaults: CallDefaults): Headers {
  const { caller, lane, labels } = own(options, defaults);
  const values: Record<string, string | undefined> = {
    "x-headrace-caller": caller,
    "x-headrace-lane": lane,
    "x-headrace-labels": Object.entries(labels).map(label).join(", "),
    "x-headrace-timeout-ms": options.timeoutMs?.toFixed(),
    "idempotency-key": options.idempotencyKey,
    "cache-control": options.cacheControl && directives(options.cacheControl),
    "anthropic-version": options.anthropicVersion,
    "anthropic-beta": options.betas?.join(","),
  };
  return new Headers(Object.entries(values).filter((entry): entry is [string, string] => Boolean(entry[1])));
}

function own(options: CallOptions, defaults: CallDefaults) {
  const { caller = defaults.caller, lane = defaults.lane } = options;
  return { caller, lane, labels: { ...defaults.labels, ...options.labels } };
}

function label([name, value]: [string, string]): string {
  // What parts labels in the header would make two of one.
  if (/[,=]/.test(name + value)) throw new TypeError(`labels: ${name} or its value is none: ${value}`);
  return `${name}=${value}`;
}

function cacheMessage({ maxAge, staleIfError, ...flags }: CacheControl) {
  return { ...flags, maxAge: duration(maxAge), staleIfError: duration(staleIfError) };
}

function duration(seconds: number | undefined) {
  return seconds === undefined ? undefined : durationFromMs(seconds * 1000);
}

function directives(control: CacheControl): string {
  const said = [
    control.noStore && "no-store",
    control.noCache && "no-cache",
    control.maxAge !== undefined && `max-age=${control.maxAge}`,
    control.onlyIfCached && "only-if-cached",
    control.staleIfError !== undefined && `stale-if-error=${control.staleIfError}`,
  ];
  return said.filter(Boolean).join(", ");
}
