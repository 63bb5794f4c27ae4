import { describe, expect, it } from "vitest";
import { add, answerOf, colour, emptyBoard, ERROR, RECENT, share } from "./board";

const from = (version: string, track: string) => answerOf(true, { app: "a", version, track, pod: "p" });

describe("the version board", () => {
  it("counts answers by version and track", () => {
    let board = emptyBoard();
    for (let i = 0; i < 9; i++) {
      board = add(board, from("1.0.0", "primary"));
    }
    board = add(board, from("1.1.0", "canary"));
    expect(board.counts).toEqual([
      { label: "1.0.0 primary", count: 9 },
      { label: "1.1.0 canary", count: 1 },
    ]);
    expect(share(board, 1)).toBe(10);
  });

  it("keeps only the last answers", () => {
    let board = emptyBoard();
    for (let i = 0; i < RECENT + 5; i++) {
      board = add(board, from(String(i), ""));
    }
    expect(board.recent).toHaveLength(RECENT);
    expect(board.recent[0]?.label).toBe("5");
    expect(board.total).toBe(RECENT + 5);
  });

  it.each([null, undefined, "text", 7, {}, { version: 1 }, []])("takes %j for an error", (body) => {
    expect(answerOf(true, body)).toEqual({ label: ERROR, ok: false });
  });

  it("takes a server's error for an error, whatever it says", () => {
    expect(answerOf(false, { version: "1.0.0" }).ok).toBe(false);
  });

  it("gives each version its own colour and errors theirs", () => {
    const board = [from("1", ""), answerOf(false, null), from("2", "")].reduce(add, emptyBoard());
    expect([colour(board, "1"), colour(board, "2"), colour(board, ERROR)]).toEqual(["var(--version-0)", "var(--version-1)", "var(--error)"]);
  });

  it("has no share of nothing", () => {
    expect(share(emptyBoard(), 0)).toBe(0);
  });
});
