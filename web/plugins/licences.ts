/** The modules that went into the bundle in, LICENCES.txt beside it out. */

import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join, sep } from "node:path";
import type { Plugin } from "vite";

/** Packages whose output is in the bundle, though none of their modules is. */
const BY_OUTPUT = ["tailwindcss", "@fontsource/instrument-serif"];
const PACKAGE = /node_modules[\\/]((?:@[^\\/]+[\\/])?[^\\/]+)/;

export function licences(): Plugin {
  return {
    name: "licences",
    generateBundle(_options, bundle) {
      const names = new Set(BY_OUTPUT);
      for (const chunk of Object.values(bundle)) {
        if (chunk.type !== "chunk") continue;
        for (const id of chunk.moduleIds) {
          const found = PACKAGE.exec(id);
          if (found) names.add(found[1]!.split(sep).join("/"));
        }
      }
      const source = [...names].sort().map(entry).join(`\n${"=".repeat(80)}\n\n`);
      this.emitFile({ type: "asset", fileName: "LICENCES.txt", source: `What this page is made with, besides its own code.\n\n${source}` });
    },
  };
}

function entry(name: string): string {
  const folder = join("node_modules", name);
  const facts = JSON.parse(readFileSync(join(folder, "package.json"), "utf8")) as { version: string; license: string };
  const file = readdirSync(folder).find((each) => /^licen[cs]e/i.test(each));
  if (!file || !existsSync(join(folder, file))) throw new Error(`${name} comes without a licence`);
  return `${name} ${facts.version} (${facts.license})\n\n${readFileSync(join(folder, file), "utf8").trim()}\n`;
}
