/** Messages of the daemon as the plain values that `types.ts` describes. */
import { timestampDate } from "@bufbuild/protobuf/wkt";

import { codeName, HeadraceError, seconds } from "./errors.js";
import { type Message as WireMessage, MessageSchema } from "./gen/headrace/v1/messages_pb.js";
import { AnswerSource, type Origin as WireOrigin } from "./gen/headrace/v1/options_pb.js";
import { type Ticket as WireTicket, type TicketError, TicketState as WireState } from "./gen/headrace/v1/tickets_pb.js";
import { toJson } from "./json.js";
import type { Message, Origin, Ticket, TicketState } from "./types.js";

export function plainMessage(message: WireMessage): Message {
  return toJson(MessageSchema, message) as Message;
}

export function plainOrigin(origin: WireOrigin): Origin {
  return {
    source: AnswerSource[origin.source]?.toLowerCase() as Origin["source"],
    attempts: origin.attempts,
    age: origin.age ? seconds(origin.age) : 0,
    ...(origin.ticket && { ticket: origin.ticket }),
    cacheStatus: origin.cacheStatus,
    requestId: origin.requestId,
  };
}

/** Converts a ticket; throws if there is none, which the daemon never does. */
export function plainTicket(ticket: WireTicket | undefined): Ticket {
  const { createTime, expireTime, attemptTime, message, origin, error } = present(ticket);
  const { id, state, model, attempts } = present(ticket);
  return {
    id,
    state: WireState[state]?.toLowerCase() as TicketState,
    model,
    attempts,
    createTime: timestampDate(present(createTime)),
    expireTime: timestampDate(present(expireTime)),
    ...(attemptTime && { attemptTime: timestampDate(attemptTime) }),
    ...(message && { message: plainMessage(message) }),
    ...(origin && { origin: plainOrigin(origin) }),
    ...(error && { error: ticketError(error) }),
  };
}

/** Returns what the daemon always sends. */
export function present<T>(value: T | undefined): T {
  if (value === undefined) throw new HeadraceError("the daemon's answer is incomplete", { code: "INTERNAL" });
  return value;
}

function ticketError({ code, reason, message, metadata, upstreamStatus }: TicketError): HeadraceError {
  return new HeadraceError(message, {
    code: codeName(code),
    reason,
    status: upstreamStatus || undefined,
    type: metadata.upstream_type,
    requestId: metadata.request_id,
    metadata,
  });
}
