/** Endpoints that have no typed service, as HTTP: JSON in and JSON out, with the errors of the typed client. */
import { failure, HeadraceError, settled } from "./errors.js";
import type { HeadraceFetch } from "./fetch.js";
import { optionsHeaders } from "./options.js";
import type { CallDefaults, CallOptions } from "./types.js";

/** Any JSON object of the API's. */
export type Json = Record<string, unknown>;

export class Http {
  constructor(
    private readonly fetch: HeadraceFetch,
    private readonly defaults: CallDefaults,
  ) {}

  /** Sends JSON and returns JSON. */
  async json<T>(method: string, path: string, options: CallOptions, body?: object): Promise<T> {
    const response = await this.#send(method, path, options, body);
    return (await settled(response.json(), options)) as T;
  }

  /** Yields the items of a list that pages by `after_id`. */
  async *pages(path: string, options: CallOptions): AsyncGenerator<Json, void> {
    let query = "";
    do {
      const page = await this.json<{ data: Json[]; has_more: boolean; last_id: string }>("GET", path + query, options);
      yield* page.data;
      query = page.has_more ? `?after_id=${encodeURIComponent(page.last_id)}` : "";
    } while (query);
  }

  /** Yields the lines of a body, each a JSON object, as they arrive. */
  async *lines(path: string, options: CallOptions): AsyncGenerator<Json, void> {
    const { body } = await this.#send("GET", path, options);
    const decoder = new TextDecoder();
    let rest = "";
    try {
      for await (const chunk of (body ?? []) as AsyncIterable<Uint8Array>) {
        const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
        rest = lines.pop() ?? "";
        yield* lines.filter(Boolean).map((line) => JSON.parse(line) as Json);
      }
    } catch (error) {
      throw failure(error, options.signal);
    }
    if (rest) yield JSON.parse(rest) as Json;
  }

  async #send(method: string, path: string, options: CallOptions, body?: object): Promise<Response> {
    const headers = optionsHeaders(options, this.defaults);
    const init: RequestInit = { method, headers, signal: options.signal ?? null };
    if (body) {
      headers.set("content-type", "application/json");
      init.body = JSON.stringify(body);
    }
    const response = await settled(this.fetch(`http://headrace${path}`, init), options);
    if (!response.ok) throw await HeadraceError.fromResponse(response);
    return response;
  }
}
