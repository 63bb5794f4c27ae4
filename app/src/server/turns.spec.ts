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

/** Connects a caller for each path, from a thread of its own. When they get a message, all send, then set the flag, and read. */
function callers(port: number, paths: string[], sent: Int32Array): Worker {
  return new Worker(
    `const { parentPort, workerData: { port, paths, sent } } = require("node:worker_threads");
    const { once } = require("node:events");
    const connect = async (path) => {
      const socket = require("node:net").connect(port, "127.0.0.1");
      await once(socket, "connect");
      return socket;
    };
    (async () => {
      const sockets = await Promise.all(paths.map(connect));
      const answers = sockets.map((socket) => once(socket, "data").then(([text]) => String(text).slice(9, 12)));
      await once(parentPort, "message");
      await Promise.all(sockets.map((socket, i) => new Promise((done) => socket.write("GET " + paths[i] + " HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n", done))));
      Atomics.store(sent, 0, 1);
      Atomics.notify(sent, 0);
      parentPort.postMessage(await Promise.all(answers));
      sockets.forEach((socket) => socket.destroy());
    })();`,
    { eval: true, workerData: { port, paths, sent } },
  );
}

it("reads what has arrived, a probe too, before it renders the next page", { timeout: 60_000 }, async () => {
  const sent = new Int32Array(new SharedArrayBuffer(4));
  let rendered = 0;
  let renderedBeforeProbe = -1;
  const app = Fastify();
  app.get("/health", () => {
    renderedBeforeProbe = rendered;
    return "ok";
  });
  const page = async (_request: unknown, response: { end(text: string): unknown }) => {
    if (rendered === 0) {
      Atomics.wait(sent, 0, 0, 30_000); // the first page takes until all have sent
    }
    rendered++;
    response.end("page");
  };
  servePages(app, { router: page, notFound: page });
  await app.listen({ host: "127.0.0.1", port: 0 });
  const paths = [...Array.from({ length: 50 }, () => "/"), "/health"];
  const worker = callers((app.server.address() as { port: number }).port, paths, sent);
  const connections = () => new Promise<number>((resolve) => app.server.getConnections((_error, count) => resolve(count)));
  while ((await connections()) < paths.length) {
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  worker.postMessage("go on");
  const [answers] = await once(worker, "message");
  expect(answers).toEqual(paths.map(() => "200"));
  expect(renderedBeforeProbe).toBeLessThan(25);
  await app.close();
});
