/** `CallOptions` as the RPCs take them, and as headers of a call carried as HTTP. */
import type { MessageInitShape } from "@bufbuild/protobuf";
import { durationFromMs } from "@bufbuild/protobuf/wkt";

import { type CallOptionsSchema, Lane } from "./gen/headrace/v1/options_pb.js";
import type { CacheControl, CallOptions } from "./types.js";

const LANES = { interactive: Lane.INTERACTIVE, standard: Lane.STANDARD, batch: Lane.BATCH };

/** Returns the message; *caller* is who calls unless the options say otherwise. */
export function optionsMessage(options: CallOptions, caller: string | undefined): MessageInitShape<typeof CallOptionsSchema> {
  return {
    cacheControl: options.cacheControl && cacheMessage(options.cacheControl),
    lane: options.lane && LANES[options.lane],
    idempotencyKey: options.idempotencyKey,
    caller: options.caller ?? caller,
    anthropicVersion: options.anthropicVersion,
    anthropicBetas: options.betas && [...options.betas],
  };
}

/** Returns the headers, without those that say nothing. */
export function optionsHeaders(options: CallOptions): Headers {
  const values: Record<string, string | undefined> = {
    "x-headrace-caller": options.caller,
    "x-headrace-lane": options.lane,
    "x-headrace-timeout-ms": options.timeoutMs?.toFixed(),
    "idempotency-key": options.idempotencyKey,
    "cache-control": options.cacheControl && directives(options.cacheControl),
    "anthropic-version": options.anthropicVersion,
    "anthropic-beta": options.betas?.join(","),
  };
  return new Headers(Object.entries(values).filter((entry): entry is [string, string] => Boolean(entry[1])));
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
