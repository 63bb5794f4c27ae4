/** The app's version, put in at build time (vite.config.ts). */
declare const __APP_VERSION__: string;
