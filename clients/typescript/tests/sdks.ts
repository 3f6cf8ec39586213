/** The official SDKs, pointed at a stage by each way there is. */
import Anthropic from "@anthropic-ai/sdk";
import OpenAI from "openai";

import { headraceFetch } from "../src/index.js";
import type { Stage } from "./stage.js";

/** Over the HTTP edge by `baseURL`; over gRPC by `headraceFetch`. */
export const WAYS = ["http", "socket", "tcp"] as const;
export type Way = (typeof WAYS)[number];

// Nothing is tried again: each test sees what came first.
const COMMON = { apiKey: "unused", defaultHeaders: { "x-headrace-caller": "tests" }, maxRetries: 0 };

export function anthropicSdk(stage: Stage, way: Way, options: object = {}): Anthropic {
  const where = way === "http" ? { baseURL: stage.at.http } : { fetch: headraceFetch(address(stage, way)) };
  return new Anthropic({ ...COMMON, ...where, ...options });
}

export function openaiSdk(stage: Stage, way: Way): OpenAI {
  if (way === "http") return new OpenAI({ ...COMMON, baseURL: `${stage.at.http}/v1` });
  return new OpenAI({ ...COMMON, baseURL: "https://api.anthropic.com/v1", fetch: headraceFetch(address(stage, way)) });
}

function address(stage: Stage, way: Way): string {
  return way === "socket" ? stage.unix : stage.at.grpc;
}
