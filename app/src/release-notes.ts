/** The headline and the look of this version. */
export const releaseNotes = {
  headline: "One service, one version at a time",
  accent: "#1f6f5c",
};
