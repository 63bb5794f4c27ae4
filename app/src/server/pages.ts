import type { FastifyInstance } from "fastify";
import type { IncomingMessage, ServerResponse } from "node:http";
import { turns } from "./turns";

/** Answers a request, or calls next: with an error if it failed, without one if there is no such page. */
type Handler = (request: IncomingMessage, response: ServerResponse, next: (error?: unknown) => void) => Promise<void>;

/** What Qwik City provides for a Node server. */
export interface Pages {
  router: Handler;
  notFound: Handler;
}

const METHODS = ["GET", "HEAD", "POST"];

/** Serves pages for everything that no route and no file matches. */
export function servePages(app: FastifyInstance, { router, notFound }: Pages): void {
  const turn = turns();
  // Qwik reads bodies itself.
  app.removeAllContentTypeParsers();
  app.addContentTypeParser("*", (_request, _payload, done) => done(null));
  app.setNotFoundHandler(async (request, reply) => {
    if (!METHODS.includes(request.method)) {
      return reply.code(405).header("allow", METHODS.join(", ")).send({ error: `${request.method} is not for pages` });
    }
    reply.raw.setHeader("cache-control", "no-cache"); // pages name hashed files, so a browser must always ask for the newest page
    reply.hijack(); // from here on nobody else finishes the response
    await turn();
    if (reply.raw.destroyed) {
      return; // the caller has left
    }
    let missing = false;
    let broken: unknown;
    const next = (error?: unknown) => {
      missing = true;
      broken ??= error;
    };
    await router(request.raw, reply.raw, next).catch(next);
    if (missing && !broken) {
      await notFound(request.raw, reply.raw, next).catch(next);
    }
    if (broken) {
      app.log.error(broken);
      fail(reply.raw);
    }
  });
}

/** Finishes a response whose page failed. A partly sent page must not look complete. */
function fail(response: ServerResponse): void {
  if (response.headersSent) {
    response.destroy();
    return;
  }
  response.writeHead(500, { "content-type": "text/plain; charset=utf-8" }).end("This page failed. Please try again.");
}
