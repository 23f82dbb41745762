/** Prompts and their shares in, the colours of their music out: from the floor to the loudest peak. */

import type { Weighted } from "../live/protocol";

export type Rgb = readonly [number, number, number];

/** Five colours by rising loudness, each 0 … 1. */
export type Ramp = readonly Rgb[];

/** The night behind everything; every ramp rises from it. */
export const NIGHT = "#07090d";

/** What is heard now: the playhead's colour, and nothing else's. */
export const CORAL = "#ff6b52";

const RAMPS: Record<string, readonly string[]> = {
  verdigris: [NIGHT, "#0d3540", "#1f8577", "#a5d8a2", "#fff5da"],
  ember: [NIGHT, "#3b1530", "#b43f4a", "#f4a55e", "#fff2d8"],
  orchid: [NIGHT, "#2a2160", "#8a52b4", "#ef93bb", "#fff0f4"],
  glacier: [NIGHT, "#12335f", "#2f80bf", "#9cd9e6", "#f6fdff"],
  saffron: [NIGHT, "#3f2d16", "#ab781f", "#efce60", "#fffbe8"],
  lagoon: [NIGHT, "#102a4a", "#1d8fa3", "#7fe0c3", "#f3fff2"],
  rust: [NIGHT, "#331a17", "#96472c", "#df9a63", "#fbf0e0"],
  heather: [NIGHT, "#24263f", "#66719f", "#b9b8d8", "#f8f5ff"],
  rose: [NIGHT, "#3a1626", "#b0436f", "#f2a3a0", "#fff3ea"],
  moss: [NIGHT, "#1b3c2a", "#5a9140", "#c6d868", "#fdffe6"],
};

export const RAMP_NAMES = Object.keys(RAMPS);

/** The ramp of a text: always the same one. */
export function rampName(text: string): string {
  let hash = 2166136261;
  for (const sign of text.trim().toLowerCase()) hash = Math.imul(hash ^ sign.codePointAt(0)!, 16777619);
  return RAMP_NAMES[(hash >>> 8) % RAMP_NAMES.length]!;
}

/** Colours of a mixture: those of its prompts, by their shares; so a walk from one to the other dawns. */
export function rampOf(prompts: readonly Weighted[]): Ramp {
  const total = prompts.reduce((sum, each) => sum + each.weight, 0);
  if (!(total > 0)) return named("verdigris");
  const parts = prompts.map((each) => ({ ramp: named(rampName(each.text)), share: each.weight / total }));
  return [0, 1, 2, 3, 4].map((stop) => {
    const at = (channel: 0 | 1 | 2) => parts.reduce((sum, { ramp, share }) => sum + share * ramp[stop]![channel], 0);
    return [at(0), at(1), at(2)] as const;
  });
}

/** The colour of a loudness from 0 to 1. */
export function colourAt(ramp: Ramp, loudness: number): Rgb {
  const place = Math.min(1, Math.max(0, loudness)) * (ramp.length - 1);
  const below = Math.min(ramp.length - 2, Math.floor(place));
  const [a, b, share] = [ramp[below]!, ramp[below + 1]!, place - below];
  return [a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share, a[2] + (b[2] - a[2]) * share];
}

/** As CSS writes it. */
export function css([red, green, blue]: Rgb): string {
  return `rgb(${[red, green, blue].map((each) => Math.round(each * 255)).join(" ")})`;
}

function named(name: string): Ramp {
  return RAMPS[name]!.map((hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16) / 255) as unknown as Rgb);
}
