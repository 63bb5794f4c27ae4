import { createQwikCity } from "@builder.io/qwik-city/middleware/node";
import qwikCityPlan from "@qwik-city-plan";
import { manifest } from "@qwik-client-manifest";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { Registry } from "prom-client";
import render from "./entry.ssr";
import { makeApp } from "./server/app";
import { serveFiles } from "./server/files";
import { metricsServer } from "./server/metrics";
import { servePages } from "./server/pages";
import { readSettings } from "./server/settings";
import { shutDown } from "./server/shutdown";

const settings = readSettings(process.env);
const state = { draining: false };
const registry = new Registry();
const app = await makeApp(settings, state, registry);
await serveFiles(app, fileURLToPath(new URL("../dist", import.meta.url)));
if (!settings.origin) {
  delete process.env.ORIGIN; // Qwik would treat an empty one as an address
}
servePages(app, createQwikCity({ render, qwikCityPlan, manifest, origin: settings.origin }));
const metrics = metricsServer(registry);

for (const signal of ["SIGTERM", "SIGINT"] as const) {
  process.on(signal, () => {
    void shutDown(state, settings.drainMs, {
      sleep: (ms) => sleep(ms, undefined, { ref: true }),
      close: async () => {
        await app.close();
        metrics.close();
      },
      exit: (code) => process.exit(code),
    });
  });
}

metrics.listen(settings.metricsPort, settings.host);
// Callers that come at once wait to be accepted; beyond 511, which is Node's default, the kernel would drop them.
await app.listen({ host: settings.host, port: settings.port, backlog: 4096 });
