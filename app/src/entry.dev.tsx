import { render, type RenderOptions } from "@builder.io/qwik";
import Root from "./root";

/** Renders in the browser alone, for `pnpm dev`. */
export default function (options: RenderOptions) {
  return render(document, <Root />, options);
}
