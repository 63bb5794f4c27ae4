import type { Draining } from "./health";

/** Well below terminationGracePeriodSeconds (30 s), so that the process exits before it is killed. */
export const HARD_LIMIT_MS = 24_000;

/** What a shutdown needs from outside; tests provide their own. */
export interface World {
  sleep(ms: number): Promise<void>;
  close(): Promise<void>;
  exit(code: number): void;
}

/**
 * Shuts down gracefully. The process is not ready at once, and serves requests for drainMs more (the time until
 * no route leads to this pod). Then it accepts no new connections, and exits after the last answer, at
 * HARD_LIMIT_MS at the latest.
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
