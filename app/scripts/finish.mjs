// After a build: removes what must not be served, and compresses files once, here, instead of at each request.
import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { extname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { brotliCompressSync, constants, gzipSync } from "node:zlib";

const dist = fileURLToPath(new URL("../dist", import.meta.url));
rmSync(join(dist, "q-manifest.json"), { force: true }); // names every source file; the server contains it

// The two bundles' lists of their contents go beside the image, not into it.
const sbom = fileURLToPath(new URL("../sbom", import.meta.url));
mkdirSync(sbom, { recursive: true });
for (const bundle of ["dist", "server"]) {
  const made = fileURLToPath(new URL(`../${bundle}/cyclonedx`, import.meta.url));
  renameSync(join(made, "bom.json"), join(sbom, `${bundle}.cdx.json`));
  rmSync(made, { recursive: true });
}

const worthIt = new Set([".js", ".css", ".svg", ".json", ".txt", ".html"]);
for (const entry of readdirSync(dist, { recursive: true, withFileTypes: true })) {
  const file = join(entry.parentPath, entry.name);
  if (!entry.isFile() || !worthIt.has(extname(file))) {
    continue;
  }
  const text = readFileSync(file);
  if (text.length < 1024) {
    continue;
  }
  writeFileSync(`${file}.br`, brotliCompressSync(text, { params: { [constants.BROTLI_PARAM_QUALITY]: 11 } }));
  writeFileSync(`${file}.gz`, gzipSync(text, { level: 9 }));
}
