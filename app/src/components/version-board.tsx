import { $, component$, useSignal, useVisibleTask$ } from "@builder.io/qwik";
import { add, answerOf, colour, emptyBoard, share } from "../board";

/** Asks the service again and again which version answers, and shows what it hears. */
export const VersionBoard = component$(() => {
  const board = useSignal(emptyBoard());
  const running = useSignal(true);
  const perSecond = useSignal(5);

  // The page is about what happens after it has loaded, so it asks without being clicked.
  // eslint-disable-next-line qwik/no-use-visible-task
  useVisibleTask$(({ track, cleanup }) => {
    const pause = 1000 / track(perSecond);
    if (!track(running)) {
      return;
    }
    let ended = false;
    const ask = async () => {
      let answer = answerOf(false, null);
      try {
        const response = await fetch("/api/version", { cache: "no-store", signal: AbortSignal.timeout(5000) });
        answer = answerOf(response.ok, await response.json());
      } catch {
        // counted as an error
      }
      if (!ended) {
        board.value = add(board.value, answer);
      }
    };
    const timer = setInterval(ask, pause);
    cleanup(() => {
      ended = true;
      clearInterval(timer);
    });
  });

  const reset = $(() => {
    board.value = emptyBoard();
  });

  return (
    <section class="board" aria-labelledby="board-title">
      <header>
        <h2 id="board-title">Who answers?</h2>
        <p class="soft">
          <output aria-label="answers">{board.value.total}</output> answers of <code>/api/version</code>
        </p>
      </header>
      <ul class="bars">
        {board.value.counts.map(({ label, count }) => (
          <li key={label}>
            <span class="name">{label}</span>
            <span class="track" aria-hidden="true">
              <span class="fill" style={{ width: `${share(board.value, count)}%`, background: colour(board.value, label) }} />
            </span>
            <span class="figure">
              {share(board.value, count).toFixed(1)} % <span class="soft">({count})</span>
            </span>
          </li>
        ))}
        {board.value.total === 0 && <li class="soft">{running.value ? "Asking …" : "Paused."}</li>}
      </ul>
      <div class="cells" role="img" aria-label="The last answers, one square each">
        {board.value.recent.map((answer, i) => (
          <span key={board.value.total - board.value.recent.length + i} style={{ background: colour(board.value, answer.label) }} />
        ))}
      </div>
      <div class="controls">
        <button type="button" onClick$={() => (running.value = !running.value)}>
          {running.value ? "Pause" : "Go on"}
        </button>
        <button type="button" onClick$={reset}>
          Start over
        </button>
        <label>
          Requests per second
          <input type="range" min="1" max="20" value={perSecond.value} onInput$={(_, input) => (perSecond.value = input.valueAsNumber)} />
          <output>{perSecond.value}</output>
        </label>
      </div>
    </section>
  );
});
