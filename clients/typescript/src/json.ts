/**
 * Anthropic's JSON to and from our typed messages, by the rules that protos/headrace/v1/content.proto gives.
 *
 * Nothing here knows a name of the API's. What a message looks like decides what it stands for:
 *
 * - with `extra_json`, an object: members go to the fields of their names; what has no field, or does not fit it exactly,
 *   goes to `extra_json`.
 * - with `other_json`, an object that its "type" tells apart: the member of that name has the rest; any other is kept whole.
 * - with neither, whatever fits one of its fields, tried in order: a text or a list of blocks.
 *
 * Fields of type bytes hold JSON text. It loses nothing but what JavaScript's own JSON does: digits of numbers beyond 2^53.
 */
import {
  create,
  type DescField,
  type DescMessage,
  isFieldSet,
  type Message,
  type MessageShape,
  ScalarType,
} from "@bufbuild/protobuf";
import { reflect } from "@bufbuild/protobuf/reflect";

type Plain = Record<string, unknown>;

/** What `shape` returns for a value that a field cannot hold exactly. */
const MISFIT = Symbol("misfit");

// Of blocks inside blocks; protobuf stops at 100 messages inside messages. Deeper ones stay JSON.
const MAX_DEPTH = 16;

/** Returns the JSON object *value* as a message; throws `TypeError` if it is no object. */
export function toMessage<D extends DescMessage>(desc: D, value: unknown): MessageShape<D> {
  const shaped = planOf(desc).shape(value, 0);
  if (shaped === MISFIT) throw new TypeError(`a ${desc.name} must be an object`);
  return shaped as MessageShape<D>;
}

/** Returns the JSON value that *message* stands for. */
export function toJson(desc: DescMessage, message: Message): unknown {
  return planOf(desc).plain(message as never);
}

interface Codec {
  /** Makes of a JSON value what the field holds, or `MISFIT`. */
  shape(value: unknown, depth: number): unknown;
  /** Makes JSON of what the field holds. */
  plain(held: never): unknown;
}

const STRING: Codec = {
  shape: (value) => (typeof value === "string" && value.isWellFormed() ? value : MISFIT),
  plain: (held: string) => held,
};

const INT: Codec = {
  shape: (value) => (Number.isSafeInteger(value) && !Object.is(value, -0) ? BigInt(value as number) : MISFIT),
  plain: (held: bigint) => Number(held),
};

const DOUBLE: Codec = {
  shape: (value) => (Number.isFinite(value) ? value : MISFIT),
  plain: (held: number) => held,
};

const BOOL: Codec = {
  shape: (value) => (typeof value === "boolean" ? value : MISFIT),
  plain: (held: boolean) => held,
};

const JSON_TEXT: Codec = {
  shape: (value) => encode(value),
  plain: (held: Uint8Array) => decode(held),
};

const SCALARS: ReadonlyMap<ScalarType, Codec> = new Map([
  [ScalarType.STRING, STRING],
  [ScalarType.INT64, INT],
  [ScalarType.DOUBLE, DOUBLE],
  [ScalarType.BOOL, BOOL],
  [ScalarType.BYTES, JSON_TEXT],
]);

class ListOf implements Codec {
  constructor(
    readonly item: Codec,
    readonly mayBeEmpty: boolean,
  ) {}

  shape(value: unknown, depth: number): unknown {
    if (!Array.isArray(value) || !(value.length || this.mayBeEmpty)) return MISFIT;
    const items = Array.from(value, (item) => this.item.shape(item, depth));
    return items.includes(MISFIT) ? MISFIT : items;
  }

  plain(held: never[]): unknown {
    return held.map((item) => this.item.plain(item));
  }
}

/** A message with `extra_json`. */
class ObjectOf implements Codec {
  readonly #fields: ReadonlyMap<string, Field>;

  constructor(readonly desc: DescMessage) {
    this.#fields = fieldsOf(desc, "extra_json");
  }

  shape(value: unknown, depth: number): unknown {
    if (!isObject(value)) return MISFIT;
    const held: Plain = {};
    const extra: [string, unknown][] = [];
    for (const [name, item] of Object.entries(value)) {
      if (item === undefined) continue; // as JSON.stringify does
      const field = this.#fields.get(name);
      const shaped = field ? field.codec.shape(item, depth) : MISFIT;
      if (field && shaped !== MISFIT) held[field.desc.localName] = shaped;
      else extra.push([name, item]);
    }
    if (extra.length) held.extraJson = encode(Object.fromEntries(extra));
    return create(this.desc, held);
  }

  plain(held: Message & Plain): Plain {
    const members = [...this.#fields.values()].filter(({ desc }) => isFieldSet(held, desc));
    const known = Object.fromEntries(members.map(({ desc, codec }) => [desc.name, codec.plain(held[desc.localName] as never)]));
    const extra = held.extraJson as Uint8Array;
    return extra.length ? { ...known, ...(decode(extra) as Plain) } : known;
  }
}

/** A message with `other_json`: one member for each known "type". */
class TaggedOf implements Codec {
  readonly #members: ReadonlyMap<string, Field>;

  constructor(readonly desc: DescMessage) {
    this.#members = fieldsOf(desc, "other_json");
  }

  shape(value: unknown, depth: number): unknown {
    const member = isObject(value) && depth < MAX_DEPTH ? this.#members.get(value.type as string) : undefined;
    if (!member) return oneOf(this.desc, "otherJson", encode(value));
    const { type: _, ...rest } = value as Plain;
    return oneOf(this.desc, member.desc.localName, member.codec.shape(rest, depth + 1));
  }

  plain(held: Message): unknown {
    const field = chosen(this.desc, held);
    if (!field) return undefined;
    if (field.desc.name === "other_json") return decode(field.value as Uint8Array);
    const member = this.#members.get(field.desc.name) as Field;
    return { type: field.desc.name, ...(member.codec.plain(field.value as never) as Plain) };
  }
}

/** A message with neither: it stands for what the one set field holds. */
class EitherOf implements Codec {
  readonly #fields: ReadonlyMap<string, Field>;

  constructor(readonly desc: DescMessage) {
    this.#fields = fieldsOf(desc, "", true);
  }

  shape(value: unknown, depth: number): unknown {
    for (const { desc, codec } of this.#fields.values()) {
      const shaped = codec.shape(value, depth);
      if (shaped === MISFIT) continue;
      return desc.oneof ? oneOf(this.desc, desc.localName, shaped) : create(this.desc, { [desc.localName]: shaped });
    }
    return MISFIT;
  }

  plain(held: Message & Plain): unknown {
    const field = chosen(this.desc, held);
    if (field) return this.#fields.get(field.desc.name)?.codec.plain(field.value as never);
    const only = this.desc.oneofs.length ? undefined : this.#fields.values().next().value;
    return only?.codec.plain(held[only.desc.localName] as never);
  }
}

/** A field, whose codec is made when it is first needed: messages contain each other. */
class Field {
  #codec: Codec | undefined;

  constructor(
    readonly desc: DescField,
    readonly mayBeEmpty: boolean,
  ) {}

  get codec(): Codec {
    return (this.#codec ??= codecOf(this.desc, this.mayBeEmpty));
  }
}

function fieldsOf(desc: DescMessage, except: string, mayBeEmpty = false): ReadonlyMap<string, Field> {
  const fields = desc.fields.filter(({ name }) => name !== except);
  return new Map(fields.map((field) => [field.name, new Field(field, mayBeEmpty)]));
}

function codecOf(field: DescField, mayBeEmpty: boolean): Codec {
  const one = field.message ? planOf(field.message) : SCALARS.get(field.scalar as ScalarType);
  if (!one) throw new TypeError(`${field}: no JSON for a field of this type`);
  return field.fieldKind === "list" ? new ListOf(one, mayBeEmpty) : one;
}

const plans = new Map<string, Codec>();

function planOf(desc: DescMessage): Codec {
  const known = plans.get(desc.typeName);
  if (known) return known;
  const names = desc.fields.map(({ name }) => name);
  const Plan = names.includes("extra_json") ? ObjectOf : names.includes("other_json") ? TaggedOf : EitherOf;
  const plan = new Plan(desc);
  plans.set(desc.typeName, plan);
  return plan;
}

function oneOf(desc: DescMessage, name: string, value: unknown): Message {
  return create(desc, { [desc.oneofs[0]?.localName as string]: { case: name, value } });
}

function chosen(desc: DescMessage, held: Message): { desc: DescField; value: unknown } | undefined {
  const oneof = desc.oneofs[0];
  const field = oneof && reflect(desc, held).oneofCase(oneof);
  return field && { desc: field, value: ((held as Message & Plain)[oneof.localName] as { value: unknown }).value };
}

function isObject(value: unknown): value is Plain {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function encode(value: unknown): Uint8Array {
  // What JSON has no word for is null, as it is in a list.
  return Buffer.from(JSON.stringify(value) ?? "null");
}

function decode(text: Uint8Array): unknown {
  return JSON.parse(Buffer.from(text.buffer, text.byteOffset, text.byteLength).toString());
}
