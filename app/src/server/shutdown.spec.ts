import { describe, expect, it } from "vitest";
import { HARD_LIMIT_MS, shutDown, type World } from "./shutdown";

/** An environment whose clock the test moves. */
function world(close: () => Promise<void> = async () => {}) {
  const timers: { at: number; ring: () => void }[] = [];
  const exits: number[] = [];
  let now = 0;
  let closedAt = -1;
  const w: World = {
    sleep: (ms) => new Promise((ring) => timers.push({ at: now + ms, ring })),
    close: () => {
      closedAt = now;
      return close();
    },
    exit: (code) => exits.push(code),
  };
  const advance = async (to: number) => {
    now = to;
    timers.filter((t) => t.at <= now).forEach((t) => t.ring());
    for (let i = 0; i < 10; i++) {
      await Promise.resolve();
    }
  };
  return { w, advance, exits, closedAt: () => closedAt };
}

describe("shutdown", () => {
  it("is not ready at once, serves until the drain is over, then exits with 0", async () => {
    const state = { draining: false };
    const { w, advance, exits, closedAt } = world();
    void shutDown(state, 5000, w);
    expect(state.draining).toBe(true);
    await advance(4999);
    expect(closedAt()).toBe(-1);
    await advance(5000);
    expect([closedAt(), exits]).toEqual([5000, [0]]);
  });

  it("exits at the hard limit if a request never finishes", async () => {
    const { w, advance, exits } = world(() => new Promise(() => {}));
    void shutDown({ draining: false }, 5000, w);
    await advance(5000);
    expect(exits).toEqual([]);
    await advance(HARD_LIMIT_MS);
    expect(exits).toEqual([1]);
  });

  it("happens once", async () => {
    const state = { draining: false };
    const { w, advance, exits } = world();
    void shutDown(state, 0, w);
    void shutDown(state, 0, w);
    await advance(HARD_LIMIT_MS - 1);
    expect(exits).toEqual([0]);
  });
});
