import { describe, expect, it } from "vitest";
import { isHost } from "./security";

describe("a host header", () => {
  it.each(["app.example.com", "app.example.com:8080", "localhost", "10.0.0.7:3000", "[::1]:3000", "a_b.svc.cluster.local"])("may be %s", (host) => {
    expect(isHost(host)).toBe(true);
  });

  it.each(["", "a b", "a<>", "a/b", "user@a", "a:", "a:port", "a:99999", "[::1", "a?b", "http://a"])("may not be %j", (host) => {
    expect(isHost(host)).toBe(false);
  });
});
