import fastifyStatic from "@fastify/static";
import type { FastifyInstance } from "fastify";
import { join } from "node:path";

/** Serves the built files of a folder, compressed if the build compressed them. */
export async function serveFiles(app: FastifyInstance, dist: string): Promise<void> {
  const options = { preCompressed: true, decorateReply: false };
  // Hashed names never change their content.
  for (const folder of ["build", "assets"]) {
    await app.register(fastifyStatic, { ...options, root: join(dist, folder), prefix: `/${folder}/`, immutable: true, maxAge: "1y" });
  }
  await app.register(fastifyStatic, { ...options, root: dist, redirect: false });
}
