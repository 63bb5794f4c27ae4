import { connect } from "node:net";
import type { AddressInfo } from "node:net";
import { Registry } from "prom-client";
import { afterEach, describe, expect, it } from "vitest";
import { makeApp } from "./app";
import { BODY_LIMIT } from "./limits";
import { metricsServer } from "./metrics";
import { readSettings } from "./settings";

const settings = readSettings({ TRACK: "canary", HOSTNAME: "pod-1" });
const state = { draining: false };
const registry = new Registry();
const app = await makeApp(settings, state, registry);
app.post("/echo", async () => ({ ok: true }));

afterEach(() => {
  state.draining = false;
});

describe("the server", () => {
  it("says which version it is, in the body and in every response's headers", async () => {
    const response = await app.inject("/api/version");
    expect(response.json()).toEqual({ app: "qwik-node-app", version: "0.0.0-test", track: "canary", pod: "pod-1" });
    for (const path of ["/api/version", "/health", "/nowhere", "/%ff"]) {
      const { headers } = await app.inject(path);
      expect([headers["x-app-version"], headers["x-app-track"]]).toEqual(["0.0.0-test", "canary"]);
    }
  });

  it("sends strict security headers", async () => {
    const { headers } = await app.inject("/nowhere");
    expect(headers["x-content-type-options"]).toBe("nosniff");
    expect(headers["content-security-policy"]).toContain("default-src 'none'");
    expect(headers["content-security-policy"]).toContain("frame-ancestors 'none'");
  });

  it("keeps an idle connection for longer than any proxy in front of it", () => {
    const envoy = 3_600_000; // HttpProtocolOptions.idle_timeout, where nobody sets it
    expect(app.server.keepAliveTimeout).toBeGreaterThan(envoy);
  });

  it.each(["a b", "a<>", "/"])("refuses the host %j", async (host) => {
    expect((await app.inject({ url: "/api/version", headers: { host } })).statusCode).toBe(400);
  });

  it("is healthy and ready, and only healthy while it drains", async () => {
    expect((await app.inject("/ready")).statusCode).toBe(200);
    state.draining = true;
    expect((await app.inject("/ready")).statusCode).toBe(503);
    expect((await app.inject("/health")).statusCode).toBe(200);
    expect((await app.inject("/api/version")).headers.connection).toBe("close");
  });

  it.each([
    [BODY_LIMIT, 200],
    [BODY_LIMIT + 1, 413],
    [60 * 1024 * 1024, 413],
  ])("answers a body whose content-length is %i with %i", async (length, code) => {
    const response = await app.inject({ method: "POST", url: "/echo", headers: { "content-length": String(length), "content-type": "application/json" }, payload: length > BODY_LIMIT ? undefined : `"${"x".repeat(length - 2)}"` });
    expect(response.statusCode).toBe(code);
  });

  it("rejects a body of unknown length on a real connection", async () => {
    await app.listen({ host: "127.0.0.1", port: 0 });
    const { port } = app.server.address() as AddressInfo;
    const answer = await new Promise<string>((resolve, reject) => {
      const socket = connect(port, "127.0.0.1", () => socket.write("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"));
      socket.once("data", (data) => {
        resolve(data.toString());
        socket.destroy();
      });
      socket.once("error", reject);
    });
    await app.close();
    expect(answer).toMatch(/^HTTP\/1.1 411 /);
  });
});

describe("metrics", () => {
  it("are served on a server of their own, with a bounded set of routes", async () => {
    const server = metricsServer(registry).listen(0, "127.0.0.1");
    await new Promise((listening) => server.once("listening", listening));
    const { port } = server.address() as AddressInfo;
    const text = await (await fetch(`http://127.0.0.1:${port}/metrics`)).text();
    expect(text).toContain('http_request_duration_seconds_count{method="GET",route="/api/version",status="200"}');
    expect(text).toContain('route="page",status="404"');
    expect(text).not.toContain("/nowhere");
    expect((await fetch(`http://127.0.0.1:${port}/`)).status).toBe(404);
    server.close();
  });
});
