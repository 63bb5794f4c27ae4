import { nodeServerAdapter } from "@builder.io/qwik-city/adapters/node-server/vite";
import { extendConfig } from "@builder.io/qwik-city/vite";
import { fileURLToPath } from "node:url";
import base from "../../vite.config";

// The server with all of its dependencies, so that it runs without node_modules.
export default extendConfig(base, () => ({
  build: {
    ssr: true,
    target: "node20",
    minify: true,
    // What minify leaves of a package is 1% more than without the slow search for what is not used.
    rollupOptions: { input: ["src/entry.fastify.ts", "@qwik-city-plan"], treeshake: false },
  },
  resolve: {
    // qwik-city uses undici only if Node has no built-in fetch. Its lazy imports would be
    // hoisted by the bundle, and some do not exist in Node 20.
    alias: { undici: fileURLToPath(new URL("../../src/server/fetch.ts", import.meta.url)) },
  },
  ssr: { noExternal: true },
  plugins: [nodeServerAdapter({ name: "fastify", ssg: null })],
}));
