import { $, component$, useSignal, useVisibleTask$ } from "@builder.io/qwik";
import { add, answerOf, color, describe, emptyBoard, failed, RECENT, shares } from "../board";

/** How many requests may be open at once, so that a slow service does not get more and more of them. */
const MOST_OPEN = 6;

/** Asks the service repeatedly which version answers, and shows the answers. */
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
    let open = 0;
    const ask = async () => {
      if (open >= MOST_OPEN) {
        return;
      }
      open++;
      let answer = failed();
      try {
        const response = await fetch("/api/version", { cache: "no-store", signal: AbortSignal.timeout(5000) });
        answer = response.ok ? answerOf(await response.json()) : failed(response.headers);
      } catch {
        // counted as no answer
      }
      open--;
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
          <output aria-label="answers">{board.value.total}</output> answers of <code>/api/version</code>; shares of the last {RECENT}
        </p>
      </header>
      <ul class="bars">
        {board.value.counts.map(({ label, count, errors }) => {
          const share = shares(board.value, label);
          return (
            <li key={label} class={{ gone: share.good + share.errors === 0 }}>
              <span class="name">
                <span class="dot" style={{ background: color(board.value, label) }} />
                {label}
              </span>
              <span class="track" aria-hidden="true">
                <span class="fill" style={{ width: `${share.good}%`, background: color(board.value, label) }} />
                <span class="fill failed" style={{ width: `${share.errors}%` }} />
              </span>
              <span class="figure">
                <strong>{(share.good + share.errors).toFixed(1)}%</strong>
                <span class="soft">
                  {count}
                  {errors > 0 && <span class="errors"> ({errors === 1 ? "1 error" : `${errors} errors`})</span>}
                </span>
              </span>
            </li>
          );
        })}
        {board.value.total === 0 && <li class="soft">{running.value ? "Asking …" : "Paused."}</li>}
      </ul>
      <div class="cells" role="img" aria-label={describe(board.value)}>
        {board.value.recent.map((answer, i) => (
          <span
            key={board.value.total - board.value.recent.length + i}
            class={{ failed: !answer.ok }}
            title={answer.ok ? answer.label : `${answer.label}, error`}
            style={{ "--color": color(board.value, answer.label) }}
          />
        ))}
      </div>
      <div class="controls">
        <button type="button" onClick$={() => (running.value = !running.value)}>
          {running.value ? "Stop" : "Start"}
        </button>
        <button type="button" onClick$={reset}>
          Clear
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
