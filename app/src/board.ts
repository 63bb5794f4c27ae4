import type { Identity } from "./identity";

/** One answer to the page's question which version there is. */
export interface Answer {
  /** "1.2.0 canary", or "error". */
  label: string;
  ok: boolean;
}

/** What the version board shows. */
export interface Board {
  total: number;
  /** Answers by label, in the order in which the labels appeared. */
  counts: { label: string; count: number }[];
  /** The last answers, oldest first. */
  recent: Answer[];
}

/** How many of the last answers are kept. */
export const RECENT = 120;

/** The label under which everything is counted that was not an answer. */
export const ERROR = "error";

export const emptyBoard = (): Board => ({ total: 0, counts: [], recent: [] });

/** Reads an answer; anything unexpected is an error, never a crash. */
export function answerOf(ok: boolean, body: unknown): Answer {
  const identity = body as Partial<Identity> | null;
  if (!ok || typeof identity?.version !== "string") {
    return { label: ERROR, ok: false };
  }
  return { label: [identity.version, identity.track].filter(Boolean).join(" "), ok: true };
}

/** Adds an answer; the given board stays as it is. */
export function add(board: Board, answer: Answer): Board {
  const known = board.counts.some((c) => c.label === answer.label);
  const counts = known
    ? board.counts.map((c) => (c.label === answer.label ? { ...c, count: c.count + 1 } : c))
    : [...board.counts, { label: answer.label, count: 1 }];
  return { total: board.total + 1, counts, recent: [...board.recent, answer].slice(-RECENT) };
}

/** A label's share of all answers in percent. */
export function share(board: Board, count: number): number {
  return board.total === 0 ? 0 : (100 * count) / board.total;
}

/** The place of a label's colour: errors have their own, versions one each in order. */
export function colour(board: Board, label: string): string {
  if (label === ERROR) {
    return "var(--error)";
  }
  const versions = board.counts.filter((c) => c.label !== ERROR).map((c) => c.label);
  return `var(--version-${Math.max(0, versions.indexOf(label)) % 4})`;
}
