import type { FastifyInstance } from "fastify";

/** Whether the process is shutting down. */
export interface Draining {
  draining: boolean;
}

/** /health: the process is alive. /ready: it accepts traffic. */
export function serveHealth(app: FastifyInstance, state: Draining): void {
  app.get("/health", async (_request, reply) => {
    reply.header("cache-control", "no-store");
    return { status: "ok" };
  });
  app.get("/ready", async (_request, reply) => {
    reply.header("cache-control", "no-store").code(state.draining ? 503 : 200);
    return { status: state.draining ? "draining" : "ready" };
  });
  app.addHook("onRequest", async (_request, reply) => {
    if (state.draining) {
      // Callers that keep connections open should open the next one elsewhere.
      reply.raw.setHeader("connection", "close");
    }
  });
}
