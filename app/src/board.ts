import type { Identity } from "./identity";

/** One answer to the page's request for the version. */
export interface Answer {
  /** Who answered: "1.2.0 canary", or NOBODY. */
  label: string;
  ok: boolean;
}

/** All answers under one label. */
export interface Count {
  label: string;
  count: number;
  /** How many of them were errors. */
  errors: number;
}

/** What the version board shows. */
export interface Board {
  total: number;
  /** By label, in the order in which the labels appeared. */
  counts: Count[];
  /** The last answers, oldest first. */
  recent: Answer[];
}

/** How many of the last answers are kept. */
export const RECENT = 120;

/** The label of requests that no copy of the app answered. */
export const NOBODY = "no answer";

export const emptyBoard = (): Board => ({ total: 0, counts: [], recent: [] });

/** Reads the body of a good answer. Anything unexpected is an error, never a crash. */
export function answerOf(body: unknown): Answer {
  const identity = body as Partial<Identity> | null;
  if (typeof identity?.version !== "string") {
    return failed();
  }
  return { label: labelOf(identity.version, identity.track), ok: true };
}

/** An error. Its headers may still say which copy it comes from. */
export function failed(headers?: { get(name: string): string | null }): Answer {
  const version = headers?.get("x-app-version");
  return { label: version ? labelOf(version, headers?.get("x-app-track")) : NOBODY, ok: false };
}

const labelOf = (version: string, track?: string | null) => [version, track].filter(Boolean).join(" ");

/** Adds an answer, without changing the given board. */
export function add(board: Board, { label, ok }: Answer): Board {
  const errors = ok ? 0 : 1;
  const known = board.counts.some((c) => c.label === label);
  const counts = known
    ? board.counts.map((c) => (c.label === label ? { label, count: c.count + 1, errors: c.errors + errors } : c))
    : [...board.counts, { label, count: 1, errors }];
  return { total: board.total + 1, counts, recent: [...board.recent, { label, ok }].slice(-RECENT) };
}

/**
 * A label's shares of the recent answers in percent: good ones and errors. A share of all answers would
 * hide for a long time that the split has changed.
 */
export function shares({ recent }: Board, label: string): { good: number; errors: number } {
  const percent = (ok: boolean) => (recent.length === 0 ? 0 : (100 * recent.filter((a) => a.label === label && a.ok === ok).length) / recent.length);
  return { good: percent(true), errors: percent(false) };
}

/** A label's color: by the order in which the labels appeared, with a separate one for NOBODY. */
export function color(board: Board, label: string): string {
  if (label === NOBODY) {
    return "var(--error)";
  }
  const versions = board.counts.filter((c) => c.label !== NOBODY).map((c) => c.label);
  return `var(--version-${Math.max(0, versions.indexOf(label)) % 6})`;
}

/** The recent answers in words, for people who cannot see the squares. */
export function describe(board: Board): string {
  const parts = board.counts
    .map(({ label }) => ({ label, ...shares(board, label) }))
    .filter(({ good, errors }) => good + errors > 0)
    .map(({ label, good, errors }) => `${label} ${(good + errors).toFixed(0)}%${errors > 0 ? `, ${errors.toFixed(0)}% errors` : ""}`);
  return parts.length === 0 ? "No answers yet" : `The last ${board.recent.length} answers: ${parts.join("; ")}`;
}
