import helmet from "@fastify/helmet";
import type { FastifyInstance } from "fastify";

/**
 * Security headers for browsers, and the rejection of invalid Host headers. The policy here is for everything
 * but pages, which have their own with a nonce (routes/plugin@csp.ts).
 */
export async function secure(app: FastifyInstance): Promise<void> {
  await app.register(helmet, {
    contentSecurityPolicy: {
      useDefaults: false,
      directives: {
        defaultSrc: ["'none'"],
        styleSrc: ["'unsafe-inline'"], // the "not found" page has inline styles
        baseUri: ["'none'"],
        formAction: ["'none'"],
        frameAncestors: ["'none'"],
      },
    },
    // With "no-referrer" browsers send forms with Origin: null, which Qwik rightly rejects.
    referrerPolicy: { policy: "same-origin" },
  });
  app.addHook("onRequest", async (request, reply) => {
    // If there are several, Node takes the first one and a proxy might take another (RFC 9112, section 3.2).
    const { rawHeaders } = request.raw; // name, value, name, value, …
    const hosts = rawHeaders.filter((_, i) => i % 2 === 1 && rawHeaders[i - 1]?.toLowerCase() === "host");
    if (hosts.length > 1 || !hosts.every(isHost)) {
      return reply.code(400).send({ error: "the host header is not a host" });
    }
  });
}

/** Whether a Host header is a name or an address, with or without a port. URLs of pages are built from it. */
export function isHost(host: string): boolean {
  return /^(\[[0-9a-f:.]+\]|[\w.-]+)(:\d{1,5})?$/i.test(host) && URL.canParse(`http://${host}/`);
}
