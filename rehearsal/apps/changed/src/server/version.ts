import type { FastifyInstance } from "fastify";
import type { Identity } from "../identity";
import type { Settings } from "./settings";

/** The identity of this copy of the app. */
export function identity(settings: Settings): Identity {
  return { app: "qwik-node-app", version: __APP_VERSION__, track: settings.track, pod: settings.pod };
}

/** How long the app waits for its price list, which takes up to a second, in milliseconds. */
const priceTimeout = process.env.PRICE_TIMEOUT_MS ?? "1000";

/**
 * Reports the version as before. It asks for prices first, in this version: with a shorter timeout than the default, a part of the
 * requests fails.
 */
export function serveVersion(app: FastifyInstance, settings: Settings): void {
  const me = identity(settings);
  app.addHook("onRequest", async (_request, reply) => {
    reply.raw.setHeader("x-app-version", me.version);
    reply.raw.setHeader("x-app-track", me.track);
    reply.raw.setHeader("x-app-configuration", priceTimeout);
  });
  app.get("/api/version", async (_request, reply) => {
    if (Math.random() * 1000 > Number(priceTimeout)) {
      throw new Error("no prices in time");
    }
    reply.header("cache-control", "no-store");
    return me;
  });
}
