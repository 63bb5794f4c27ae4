import Fastify, { type FastifyInstance, type FastifyReply } from "fastify";
import type { Registry } from "prom-client";
import { type Draining, serveHealth } from "./health";
import { limitBodies } from "./limits";
import { measure } from "./metrics";
import { secure } from "./security";
import type { Settings } from "./settings";
import { identity, serveVersion } from "./version";

/** The server without its pages. */
export async function makeApp(settings: Settings, state: Draining, registry: Registry): Promise<FastifyInstance> {
  const app = Fastify({
    logger: { level: process.env.LOG_LEVEL || "warn" },
    requestTimeout: 15_000, // a slow sender does not hold a connection forever
    // Longer than a proxy keeps an idle connection (Envoy: one hour). If the server closed first, a request
    // that is on its way at that moment would be lost.
    keepAliveTimeout: 3_900_000,
    forceCloseConnections: "idle",
    // URLs that cannot be parsed get here before any hook has run.
    frameworkErrors: (error, _request, anyReply) => {
      const reply = anyReply as FastifyReply;
      const { version, track } = identity(settings);
      return reply.code(error.statusCode ?? 500).headers({ "x-app-version": version, "x-app-track": track }).send({ error: error.message });
    },
  });
  app.server.headersTimeout = 10_000;
  measure(app, registry);
  serveVersion(app, settings);
  await secure(app);
  limitBodies(app);
  serveHealth(app, state);
  return app;
}
