import { createQwikCity, type QwikCityNodeRequestOptions } from "@builder.io/qwik-city/middleware/node";
import fastifyStatic from "@fastify/static";
import type { FastifyInstance } from "fastify";
import { join } from "node:path";

/** Serves the built files of a folder, and Qwik's pages for everything else. */
export async function servePages(app: FastifyInstance, dist: string, options: QwikCityNodeRequestOptions): Promise<void> {
  // Hashed names never change their content.
  for (const folder of ["build", "assets"]) {
    await app.register(fastifyStatic, {
      root: join(dist, folder),
      prefix: `/${folder}/`,
      immutable: true,
      maxAge: "1y",
      preCompressed: true,
      decorateReply: false,
    });
  }
  await app.register(fastifyStatic, { root: dist, redirect: false, preCompressed: true, decorateReply: false });

  const { router, notFound } = createQwikCity(options);
  // Qwik reads bodies itself.
  app.removeAllContentTypeParsers();
  app.addContentTypeParser("*", (_request, _payload, done) => done(null));
  app.setNotFoundHandler(async (request, reply) => {
    const failed = (error: unknown) => {
      if (error) {
        app.log.error(error);
      }
    };
    reply.hijack();
    await router(request.raw, reply.raw, failed);
    await notFound(request.raw, reply.raw, failed);
  });
}
