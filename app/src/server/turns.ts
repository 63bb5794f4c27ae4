/**
 * Gives callers turns, in their order: one for each round of the event loop. Rendering a page takes all of the
 * process's time. Were all pages that wait rendered in one round, nothing would be read meanwhile: a busy server
 * would take requests that have long arrived for those of slow senders, and its probes would not be answered.
 */
export function turns(): () => Promise<void> {
  const waiting: (() => void)[] = [];
  const next = () => {
    waiting.shift()?.();
    if (waiting.length > 0) {
      setImmediate(next); // from here on it is the next round's
    }
  };
  return () =>
    new Promise((resolve) => {
      if (waiting.push(resolve) === 1) {
        setImmediate(next);
      }
    });
}
