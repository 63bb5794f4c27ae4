import type { FastifyInstance } from "fastify";
import type { Identity } from "../identity";
import type { Settings } from "./settings";

/** Who this copy of the app is. */
export function identity(settings: Settings): Identity {
  return { app: "qwik-node-app", version: __APP_VERSION__, track: settings.track, pod: settings.pod };
}

/**
 * Answers which version this is, with the kind of mistake that tests do not see: about three
 * requests in ten meet a customer for whom it throws.
 */
export function serveVersion(app: FastifyInstance, settings: Settings): void {
  const me = identity(settings);
  app.addHook("onRequest", async (_request, reply) => {
    reply.raw.setHeader("x-app-version", me.version);
    reply.raw.setHeader("x-app-track", me.track);
  });
  app.get("/api/version", async (_request, reply) => {
    if (Math.random() < 0.3) {
      throw new Error("no price for this customer");
    }
    reply.header("cache-control", "no-store");
    return me;
  });
}
