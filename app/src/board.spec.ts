import { describe, expect, it } from "vitest";
import { add, answerOf, type Board, color, describe as inWords, emptyBoard, failed, NOBODY, RECENT, shares } from "./board";

const from = (version: string, track: string) => answerOf({ app: "a", version, track, pod: "p" });
const many = (board: Board, count: number, answer: ReturnType<typeof failed>) => Array.from({ length: count }, () => answer).reduce(add, board);

describe("the version board", () => {
  it("counts answers by version and track", () => {
    const board = add(many(emptyBoard(), 9, from("1.0.0", "primary")), from("1.1.0", "canary"));
    expect(board.counts).toEqual([
      { label: "1.0.0 primary", count: 9, errors: 0 },
      { label: "1.1.0 canary", count: 1, errors: 0 },
    ]);
    expect(shares(board, "1.1.0 canary")).toEqual({ good: 10, errors: 0 });
  });

  it("keeps only the last answers, and counts all", () => {
    let board = emptyBoard();
    for (let i = 0; i < RECENT + 5; i++) {
      board = add(board, from(String(i), ""));
    }
    expect(board.recent).toHaveLength(RECENT);
    expect(board.recent[0]?.label).toBe("5");
    expect(board.total).toBe(RECENT + 5);
  });

  it("shows a version that no longer answers with its count and no share", () => {
    const board = many(many(emptyBoard(), 50, from("1", "primary")), RECENT, from("2", "primary"));
    expect(board.counts[0]).toEqual({ label: "1 primary", count: 50, errors: 0 });
    expect(shares(board, "1 primary")).toEqual({ good: 0, errors: 0 });
    expect(shares(board, "2 primary").good).toBe(100);
  });

  it.each([null, undefined, "text", 7, {}, { version: 1 }, []])("takes %j for no answer", (body) => {
    expect(answerOf(body)).toEqual({ label: NOBODY, ok: false });
  });

  it("counts an error for the version that returned it", () => {
    const error = failed(new Headers({ "x-app-version": "1.1.0", "x-app-track": "canary" }));
    expect(error).toEqual({ label: "1.1.0 canary", ok: false });
    const board = add(many(emptyBoard(), 3, from("1.1.0", "canary")), error);
    expect(board.counts).toEqual([{ label: "1.1.0 canary", count: 4, errors: 1 }]);
    expect(shares(board, "1.1.0 canary")).toEqual({ good: 75, errors: 25 });
  });

  it("counts a request that nobody answered as an error", () => {
    expect(failed(new Headers())).toEqual({ label: NOBODY, ok: false });
    expect(failed()).toEqual({ label: NOBODY, ok: false });
  });

  it("gives each version its own color, and a separate one to requests that nobody answered", () => {
    const board = [from("1", ""), failed(), from("2", "")].reduce(add, emptyBoard());
    expect([color(board, "1"), color(board, "2"), color(board, NOBODY)]).toEqual(["var(--version-0)", "var(--version-1)", "var(--error)"]);
  });

  it("describes itself in words", () => {
    expect(inWords(emptyBoard())).toBe("No answers yet");
    const board = [from("1", "primary"), from("1", "primary"), from("1", "primary"), failed()].reduce(add, emptyBoard());
    expect(inWords(board)).toBe("The last 4 answers: 1 primary 75%; no answer 25%, 25% errors");
  });

  it("has no shares without answers", () => {
    expect(shares(emptyBoard(), "1")).toEqual({ good: 0, errors: 0 });
  });
});
