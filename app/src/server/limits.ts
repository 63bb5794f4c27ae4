import type { FastifyInstance, FastifyReply } from "fastify";

/** The largest body that is accepted, in bytes. */
export const BODY_LIMIT = 1024 * 1024;

/**
 * Rejects large bodies before they are read: Qwik reads the raw body, so Fastify's own limit does not apply to
 * it. A body of unknown length is rejected too.
 */
export function limitBodies(app: FastifyInstance): void {
  app.addHook("onRequest", async (request, reply) => {
    const { "content-length": length, "transfer-encoding": encoding } = request.headers;
    if (encoding !== undefined) {
      return refuse(reply, 411, "a body needs a content-length");
    }
    if (length !== undefined && Number(length) > BODY_LIMIT) {
      return refuse(reply, 413, `a body may have ${BODY_LIMIT} bytes`);
    }
  });
}

function refuse(reply: FastifyReply, code: number, message: string) {
  // The rest of the body is not read, so the connection cannot be used again.
  return reply.code(code).header("connection", "close").send({ error: message });
}
