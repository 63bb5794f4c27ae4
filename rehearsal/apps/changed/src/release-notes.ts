/** What this version is about, in its own words. */
export const releaseNotes = {
  headline: "A new headline and a new color, for a tenth of the callers first",
  accent: "#c46a12",
};
