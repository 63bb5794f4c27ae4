import { component$ } from "@builder.io/qwik";
import { type DocumentHead, Form, routeAction$, routeLoader$, z, zod$ } from "@builder.io/qwik-city";
import { VersionBoard } from "../components/version-board";
import { releaseNotes } from "../release-notes";

/**
 * Which copy of the app rendered the page. Everything that names a version is read here, on the server.
 * So copies of different versions have the same client bundle, and while traffic is split a page works
 * no matter which copy serves its scripts.
 */
export const useRelease = routeLoader$(() => ({
  ...releaseNotes,
  version: __APP_VERSION__,
  track: process.env.TRACK || "no track",
}));

export const useGreeting = routeAction$(
  ({ name }) => ({ greeting: `Hello ${name}, this is version ${__APP_VERSION__}.` }),
  zod$({ name: z.string().trim().min(1, "Please give a name.").max(80, "At most 80 letters, please.") }),
);

export const head: DocumentHead = ({ resolveValue }) => ({ title: `qwik-node-app ${resolveValue(useRelease).version}` });

export default component$(() => {
  const release = useRelease();
  const greet = useGreeting();
  return (
    <div class="page" style={{ "--accent": release.value.accent }}>
      <main>
        <header class="hero">
          <p class="soft">qwik-node-app</p>
          <h1>
            Version {release.value.version} <span class="chip">{release.value.track}</span>
          </h1>
          <p class="headline">{release.value.headline}</p>
          <p class="soft">The copy named above rendered this page. Below, each square is one more request, and its color shows which version answered it.</p>
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
    </div>
  );
});
