import { component$ } from "@builder.io/qwik";
import { QwikCityProvider, RouterOutlet } from "@builder.io/qwik-city";
import { releaseNotes } from "./release-notes";
import "./global.css";

export default component$(() => (
  <QwikCityProvider>
    <head>
      <meta charset="utf-8" />
      <meta name="viewport" content="width=device-width, initial-scale=1" />
      <title>{`qwik-node-app ${__APP_VERSION__}`}</title>
      <meta name="description" content="Which version answers? A service that shows its own canary releases." />
      <link rel="icon" href="/favicon.svg" type="image/svg+xml" />
    </head>
    <body style={{ "--accent": releaseNotes.accent }}>
      <RouterOutlet />
    </body>
  </QwikCityProvider>
));
