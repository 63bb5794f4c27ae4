import { component$ } from "@builder.io/qwik";
import { Form, routeAction$, routeLoader$, z, zod$ } from "@builder.io/qwik-city";
import { VersionBoard } from "../components/version-board";
import { releaseNotes } from "../release-notes";

/** Which copy of the app rendered the page. */
export const useTrack = routeLoader$(() => process.env.TRACK || "no track");

export const useGreeting = routeAction$(
  ({ name }) => ({ greeting: `Hello ${name}, this is version ${__APP_VERSION__}.` }),
  zod$({ name: z.string().trim().min(1, "Please give a name.").max(80, "At most 80 letters, please.") }),
);

export default component$(() => {
  const track = useTrack();
  const greet = useGreeting();
  return (
    <main>
      <header class="hero">
        <p class="soft">qwik-node-app</p>
        <h1>
          Version {__APP_VERSION__} <span class="chip">{track.value}</span>
        </h1>
        <p>{releaseNotes.headline}. This page was rendered by the copy named above; below, each square is one more request, and its colour says which version answered it.</p>
      </header>
      <VersionBoard />
      <section aria-labelledby="greet-title">
        <h2 id="greet-title">Say hello</h2>
        <Form action={greet} class="controls">
          <label>
            Name <input name="name" required maxLength={80} autocomplete="off" />
          </label>
          <button type="submit">Send</button>
        </Form>
        <p role="status">{greet.value?.greeting ?? greet.value?.fieldErrors?.name?.[0]}</p>
      </section>
    </main>
  );
});
