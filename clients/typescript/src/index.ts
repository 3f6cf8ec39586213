/** What is public; generated messages and services are under `@headrace/client/v1/*`. */
export { Channel } from "./channel.js";
export { type ClientOptions, Headrace, MessageStream } from "./client.js";
export { type ErrorFacts, HeadraceError } from "./errors.js";
export { type FetchOptions, headraceFetch, type HeadraceFetch } from "./fetch.js";
export type { Json } from "./http.js";
export { toJson, toMessage } from "./json.js";
export type * from "./types.js";
