import type { FastifyInstance } from "fastify";
import type { Identity } from "../identity";
import type { Settings } from "./settings";

/** The identity of this copy of the app. */
export function identity(settings: Settings): Identity {
  return { app: "qwik-node-app", version: __APP_VERSION__, track: settings.track, pod: settings.pod };
}

/** Reports the version, on its own path and in the headers of every response. */
export function serveVersion(app: FastifyInstance, settings: Settings): void {
  const me = identity(settings);
  // On the raw response, because Qwik writes its pages there.
  app.addHook("onRequest", async (_request, reply) => {
    reply.raw.setHeader("x-app-version", me.version);
    reply.raw.setHeader("x-app-track", me.track);
  });
  app.get("/api/version", async (_request, reply) => {
    reply.header("cache-control", "no-store");
    return me;
  });
}
