import { hostname } from "node:os";

/** Settings from the environment. */
export interface Settings {
  host: string;
  port: number;
  metricsPort: number;
  /** primary or canary; empty outside a release. */
  track: string;
  pod: string;
  /** How long requests are still served after SIGTERM. */
  drainMs: number;
  /** The public address that forms must come from; undefined for the address of the request. */
  origin?: string;
}

/** Reads the environment; throws an Error that names the variable. */
export function readSettings(env: NodeJS.ProcessEnv): Settings {
  return {
    host: env.HOST || "0.0.0.0",
    port: whole(env, "PORT", 3000, 65535),
    metricsPort: whole(env, "METRICS_PORT", 9464, 65535),
    track: track(env),
    pod: env.HOSTNAME || hostname(),
    drainMs: whole(env, "DRAIN_MS", 5000, 20_000),
    origin: origin(env),
  };
}

function whole(env: NodeJS.ProcessEnv, name: string, otherwise: number, most: number): number {
  const text = env[name];
  if (text === undefined || text === "") {
    return otherwise;
  }
  const value = Number(text);
  if (!Number.isInteger(value) || value < 0 || value > most) {
    throw new Error(`${name}=${text} is not a whole number from 0 to ${most}`);
  }
  return value;
}

/** The value is sent in a header of every response. */
function track({ TRACK = "" }: NodeJS.ProcessEnv): string {
  if (!/^[\w.-]*$/.test(TRACK)) {
    throw new Error(`TRACK=${JSON.stringify(TRACK)} is not a name of letters, digits, ".", "_" and "-"`);
  }
  return TRACK;
}

/** With a path or a trailing slash it would never equal a browser's Origin. */
function origin({ ORIGIN }: NodeJS.ProcessEnv): string | undefined {
  if (!ORIGIN) {
    return undefined;
  }
  if (!/^https?:/.test(ORIGIN) || !URL.canParse(ORIGIN) || new URL(ORIGIN).origin !== ORIGIN) {
    throw new Error(`ORIGIN=${ORIGIN} is not an origin like https://app.example.com, without a path or a slash at its end`);
  }
  return ORIGIN;
}
