/** Who answers: this copy of the app. */
export interface Identity {
  app: string;
  version: string;
  track: string;
  pod: string;
}
