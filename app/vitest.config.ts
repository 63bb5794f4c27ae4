import { defineConfig } from "vitest/config";

// The tests are of plain TypeScript: no Qwik plugins.
export default defineConfig({
  define: { __APP_VERSION__: JSON.stringify("0.0.0-test") },
  test: { include: ["src/**/*.spec.ts"], isolate: false }, // each test makes its own server
});
