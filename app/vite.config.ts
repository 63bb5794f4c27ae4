import { qwikCity } from "@builder.io/qwik-city/vite";
import { qwikVite } from "@builder.io/qwik/optimizer";
import { defineConfig } from "vite";
import manifest from "./package.json" with { type: "json" };

// The client build; adapters/fastify extends it for the server.
export default defineConfig({
  plugins: [qwikCity(), qwikVite()],
  define: {
    __APP_VERSION__: JSON.stringify(process.env.APP_VERSION || manifest.version),
  },
});
