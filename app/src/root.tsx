import { component$ } from "@builder.io/qwik";
import { QwikCityProvider, RouterOutlet, useDocumentHead } from "@builder.io/qwik-city";
import "./global.css";

/** The part of the head that differs between pages. */
const Title = component$(() => {
  const { title } = useDocumentHead();
  return <title>{title}</title>;
});

export default component$(() => (
  <QwikCityProvider>
    <head>
      <meta charset="utf-8" />
      <meta name="viewport" content="width=device-width, initial-scale=1" />
      <Title />
      <meta name="description" content="Which version answers? A service that shows its own canary releases." />
      <link rel="icon" href="/favicon.svg" type="image/svg+xml" />
    </head>
    <body>
      <RouterOutlet />
    </body>
  </QwikCityProvider>
));
