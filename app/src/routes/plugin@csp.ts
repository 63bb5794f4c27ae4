import type { RequestHandler } from "@builder.io/qwik-city";
import { isDev } from "@builder.io/qwik";

/** Only scripts with this response's nonce run. Qwik adds it to its own scripts. */
export const onRequest: RequestHandler = ({ headers, sharedMap }) => {
  if (isDev) {
    return; // Vite's own scripts have no nonce
  }
  const nonce = crypto.randomUUID();
  sharedMap.set("@nonce", nonce);
  headers.set(
    "Content-Security-Policy",
    [
      "default-src 'self'",
      `script-src 'nonce-${nonce}' 'strict-dynamic'`,
      "style-src 'self' 'unsafe-inline'", // Qwik streams a page's styles inline
      "img-src 'self' data:",
      "connect-src 'self'",
      "form-action 'self'",
      "object-src 'none'",
      "base-uri 'none'",
      "frame-ancestors 'none'",
    ].join("; "),
  );
};
