/** What this version is about, in its own words. */
export const releaseNotes = {
  headline: "One service, one version at a time",
  accent: "#1f6f5c",
};
