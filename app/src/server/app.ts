import helmet from "@fastify/helmet";
import Fastify, { type FastifyInstance } from "fastify";
import type { Registry } from "prom-client";
import { type Draining, serveHealth } from "./health";
import { limitBodies } from "./limits";
import { measure } from "./metrics";
import type { Settings } from "./settings";
import { serveVersion } from "./version";

/** The server without its pages. */
export async function makeApp(settings: Settings, state: Draining, registry: Registry): Promise<FastifyInstance> {
  const app = Fastify({
    logger: { level: process.env.LOG_LEVEL || "warn" },
    requestTimeout: 15_000, // a slow sender does not hold a connection for ever
    // Longer than a proxy keeps an idle connection (Envoy: one hour): who closes first must not be
    // the server, or a request that is on its way at that moment is lost.
    keepAliveTimeout: 3_900_000,
    forceCloseConnections: "idle",
  });
  app.server.headersTimeout = 10_000;
  // The policy for scripts needs a nonce: routes/plugin@csp.ts makes it.
  await app.register(helmet, {
    contentSecurityPolicy: false,
    // With "no-referrer" browsers send forms with Origin: null, which Qwik rightly refuses.
    referrerPolicy: { policy: "same-origin" },
  });
  measure(app, registry);
  serveVersion(app, settings);
  limitBodies(app);
  serveHealth(app, state);
  return app;
}
