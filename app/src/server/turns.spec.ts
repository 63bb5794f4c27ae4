import Fastify from "fastify";
import { once } from "node:events";
import { Worker } from "node:worker_threads";
import { expect, it } from "vitest";
import { servePages } from "./pages";
import { turns } from "./turns";

it("gives a turn in each round of the event loop, in order", async () => {
  const turn = turns();
  const rounds: number[] = [];
  let round = 0;
  const count = () => {
    round++;
    if (rounds.length < 3) {
      setImmediate(count);
    }
  };
  setImmediate(count);
  await Promise.all([1, 2, 3].map(() => turn().then(() => rounds.push(round))));
  await turn(); // also once nobody has waited
  expect(rounds).toEqual([1, 2, 3]);
});

/** Calls paths at the same time, from a thread of its own, and gives each one's status or error and when it came. */
async function call(port: number, paths: string[]): Promise<{ what: number | string; at: number }[]> {
  const worker = new Worker(
    `const { parentPort, workerData: { port, paths } } = require("node:worker_threads");
    Promise.all(paths.map((path) => new Promise((resolve) => {
      const done = (what) => resolve({ what, at: performance.now() });
      require("node:http").get({ host: "127.0.0.1", port, path, agent: false }, (response) => {
        response.resume().on("end", () => done(response.statusCode));
      }).on("error", (error) => done(error.message));
    }))).then((all) => parentPort.postMessage(all));`,
    { eval: true, workerData: { port, paths } },
  );
  const [answers] = await once(worker, "message");
  return answers;
}

it("does not take callers for slow senders, nor let a probe wait, when the pages before them take long", async () => {
  const app = Fastify({ requestTimeout: 200, http: { headersTimeout: 150, connectionsCheckingInterval: 50 } });
  app.get("/health", () => "ok");
  const busy = async (_request: unknown, response: { end(text: string): unknown }) => {
    for (const end = performance.now() + 20; performance.now() < end;);
    response.end("page");
  };
  servePages(app, { router: busy, notFound: busy });
  await app.listen({ host: "127.0.0.1", port: 0 });
  const { port } = app.server.address() as { port: number };
  const answers = await call(port, [...Array.from({ length: 50 }, () => "/"), "/health"]);
  expect(answers.map(({ what }) => what)).toEqual(answers.map(() => 200));
  const probe = answers.at(-1)?.at ?? Infinity;
  expect(answers.filter(({ at }) => at < probe).length).toBeLessThan(25);
  await app.close();
});
