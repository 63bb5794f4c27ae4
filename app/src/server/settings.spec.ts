import { describe, expect, it } from "vitest";
import { readSettings } from "./settings";

describe("settings", () => {
  it("have defaults", () => {
    expect(readSettings({ HOSTNAME: "h" })).toEqual({ host: "0.0.0.0", port: 3000, metricsPort: 9464, track: "", pod: "h", drainMs: 5000 });
  });

  it("are read from the environment", () => {
    expect(readSettings({ HOST: "10.0.0.1", PORT: "80", METRICS_PORT: "81", TRACK: "primary", HOSTNAME: "p", DRAIN_MS: "0", ORIGIN: "https://app.example.com" })).toEqual({
      host: "10.0.0.1",
      port: 80,
      metricsPort: 81,
      track: "primary",
      pod: "p",
      drainMs: 0,
      origin: "https://app.example.com",
    });
  });

  it("treats an empty variable as unset", () => {
    expect(readSettings({ HOST: "", PORT: "", METRICS_PORT: "", TRACK: "", HOSTNAME: "h", DRAIN_MS: "", ORIGIN: "" })).toEqual(readSettings({ HOSTNAME: "h" }));
  });

  it.each([
    ["PORT", "http"],
    ["PORT", "-1"],
    ["METRICS_PORT", "65536"],
    ["DRAIN_MS", "1.5"],
    ["DRAIN_MS", "60000"],
    ["TRACK", "a\nb"],
    ["ORIGIN", "app.example.com"],
    ["ORIGIN", "https://app.example.com/"],
    ["ORIGIN", "ftp://app.example.com"],
  ])("refuse %s=%s by name", (name, value) => {
    expect(() => readSettings({ [name]: value })).toThrow(name);
  });
});
