import Fastify, { type FastifyInstance } from "fastify";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { serveFiles } from "./files";
import { servePages } from "./pages";

let dist: string;
let app: FastifyInstance;

beforeAll(async () => {
  dist = mkdtempSync(join(tmpdir(), "dist-"));
  mkdirSync(join(dist, "build"));
  mkdirSync(join(dist, "assets"));
  writeFileSync(join(dist, "build", "q-1.js"), "export {}");
  writeFileSync(join(dist, "build", "q-1.js.br"), "brotli");
  writeFileSync(join(dist, "robots.txt"), "User-agent: *");
  app = Fastify();
  await serveFiles(app, dist);
  servePages(app, {
    router: async (request, response, next) => {
      switch (request.url) {
        case "/":
          response.end("<h1>page</h1>");
          return;
        case "/broken":
          next(new Error("broken on purpose"));
          return;
        case "/thrown":
          throw new Error("thrown on purpose");
        default:
          next();
      }
    },
    notFound: async (_request, response) => {
      response.writeHead(404).end("nothing here");
    },
  });
});

afterAll(async () => {
  await app.close();
  rmSync(dist, { recursive: true });
});

describe("files", () => {
  it("with a hashed name are cached forever, and compressed in advance", async () => {
    const { headers, body } = await app.inject({ url: "/build/q-1.js", headers: { "accept-encoding": "br" } });
    expect(headers["cache-control"]).toBe("public, max-age=31536000, immutable");
    expect([headers["content-encoding"], body]).toEqual(["br", "brotli"]);
    expect((await app.inject("/build/q-1.js")).body).toBe("export {}");
  });

  it("without a hashed name are revalidated", async () => {
    expect((await app.inject("/robots.txt")).headers["cache-control"]).toBe("public, max-age=0");
  });

  it.each(["/../package.json", "/%2e%2e/package.json", "/build/../../package.json"])("outside of the folder are not served: %s", async (url) => {
    expect((await app.inject(url)).statusCode).toBeGreaterThanOrEqual(400);
  });
});

describe("pages", () => {
  it.each([
    ["/", 200],
    ["/nowhere", 404],
    ["/build/q-2.js", 404],
    ["/broken", 500],
    ["/thrown", 500],
  ])("%s is answered with %i and never kept unasked", async (url, code) => {
    const { statusCode, headers } = await app.inject(url);
    expect([statusCode, headers["cache-control"]]).toEqual([code, "no-cache"]);
  });

  it.each(["PUT", "DELETE", "OPTIONS"] as const)("do not know %s", async (method) => {
    const { statusCode, headers } = await app.inject({ method, url: "/" });
    expect([statusCode, headers.allow]).toEqual([405, "GET, HEAD, POST"]);
  });
});
