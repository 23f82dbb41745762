import tailwindcss from "@tailwindcss/vite";
import react from "@vitejs/plugin-react";
import { defineConfig } from "vitest/config";

import { licences } from "./plugins/licences.ts";

/** Where `riffusion-rt serve` listens: `npm run dev` shows the page on top of it. */
const SERVER = "http://127.0.0.1:3013";

export default defineConfig({
  plugins: [react(), tailwindcss(), licences()],
  build: {
    outDir: "../riffusion_rt/server/static",
    emptyOutDir: true,
    target: "es2022",
    assetsInlineLimit: 0,
    chunkSizeWarningLimit: 600, // three.js, fetched only for the relief
    modulePreload: { polyfill: false },
  },
  worker: { format: "es" },
  server: { proxy: { "/api": { target: SERVER, ws: true }, "/docs": SERVER, "/openapi.json": SERVER } },
  test: { include: ["tests/**/*.test.ts"], environment: "node" },
});
