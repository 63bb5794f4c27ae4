// Stands in for undici in the server's bundle: Node 20 and later have these built in.
export const { fetch, Headers, Request, Response, FormData } = globalThis;
