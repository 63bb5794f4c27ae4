import { qwikCity } from "@builder.io/qwik-city/vite";
import { type QwikManifest, qwikVite } from "@builder.io/qwik/optimizer";
import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import sbom from "rollup-plugin-sbom";
import { defineConfig } from "vite";
import manifest from "./package.json" with { type: "json" };

const version = process.env.APP_VERSION || manifest.version;
if (!/^[\w.+-]+$/.test(version)) {
  throw new Error(`APP_VERSION=${version} cannot be sent in a header: use letters, digits and ".", "_", "+", "-"`);
}

// The server must know the client that was built just before it, here. By default Qwik uses the client that was
// built last anywhere on this machine, from the folder for temporary files.
const client = fileURLToPath(new URL("dist/q-manifest.json", import.meta.url));
const manifestInput = existsSync(client) ? (JSON.parse(readFileSync(client, "utf8")) as QwikManifest) : undefined;

// The client build; adapters/fastify extends it for the server.
export default defineConfig({
  // What is in the bundle, as reported by the bundler. scripts/finish.mjs removes it from what is served.
  plugins: [qwikCity(), qwikVite({ ssr: { manifestInput } }), sbom({ saveTimestamp: false, includeWellKnown: false })],
  define: { __APP_VERSION__: JSON.stringify(version) },
});
