import js from "@eslint/js";
import { globalIgnores } from "eslint/config";
import { qwikEslint9Plugin } from "eslint-plugin-qwik";
import globals from "globals";
import tseslint from "typescript-eslint";

export default tseslint.config(
  // Only what a build creates: src/server is linted like the rest.
  globalIgnores(["dist/", "server/", "node_modules/"]),
  js.configs.recommended,
  {
    files: ["**/*.{ts,tsx}"],
    extends: [tseslint.configs.recommended, qwikEslint9Plugin.configs.recommended],
    languageOptions: {
      parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname },
    },
  },
  { languageOptions: { globals: { ...globals.browser, ...globals.node } } },
);
