import type { Draining } from "./health";

/** Well below terminationGracePeriodSeconds (30 s): ending by itself beats being killed. */
export const HARD_LIMIT_MS = 24_000;

/** What a shutdown needs of the world; tests give their own. */
export interface World {
  sleep(ms: number): Promise<void>;
  close(): Promise<void>;
  exit(code: number): void;
}

/**
 * Ends the process in order: not ready at once, requests served for drainMs more (the time that
 * routes need to forget this pod), then no new connections, and the end when the last request is
 * answered. Never later than HARD_LIMIT_MS.
 */
export async function shutDown(state: Draining, drainMs: number, world: World): Promise<void> {
  if (state.draining) {
    return;
  }
  state.draining = true;
  const tooLate = world.sleep(HARD_LIMIT_MS).then(() => world.exit(1));
  const inOrder = world
    .sleep(drainMs)
    .then(() => world.close())
    .then(
      () => world.exit(0),
      () => world.exit(1),
    );
  await Promise.race([tooLate, inOrder]);
}
