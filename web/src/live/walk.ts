/** Blocks and the frame that is heard in, the lines of the prompt stack out: past, now, up next; each with its size. */

import type { Weighted } from "./protocol";

export type Tense = "past" | "now" | "next";

export interface WalkLine {
  key: string;
  text: string;
  tense: Tense;
  /** Share of what is heard, 0 … 1. */
  share: number;
  /** Relative to the largest line, 0 … 1. */
  size: number;
  opacity: number;
}

export interface Played {
  start_frame: number;
  prompts: Weighted[];
}

/** Lines of the past that are shown. */
export const PAST_LINES = 3;

/** No line is fainter: cream on night at this opacity still has a contrast of 5 to 1. */
export const FADED = 0.58;

const SMALLEST = 0.3;
const NEXT_SIZE = 0.42;
const PAST_SIZES = [0.36, 0.31, 0.27];
const PAST_OPACITIES = [0.78, 0.68, FADED];

/** A share's line: half heard is more than half as tall, or it could not be read. */
export function sizeOf(share: number): number {
  return SMALLEST + (1 - SMALLEST) * Math.sqrt(Math.min(1, Math.max(0, share)));
}

/**
 * @param heard blocks up to the one that is heard, oldest first.
 * @param wanted where the walk goes: prompts that were asked for.
 */
export function walkLines(heard: readonly Played[], wanted: readonly Weighted[]): WalkLine[] {
  const present = heard.at(-1)?.prompts ?? [];
  const total = present.reduce((sum, each) => sum + each.weight, 0) || 1;
  const now = present
    .filter((each) => each.weight > 0)
    .map((each) => line(each.text, "now", each.weight / total, sizeOf(each.weight / total), FADED + (1 - FADED) * (each.weight / total)));
  const heardNow = new Set(now.map((each) => each.text));
  const next = wanted
    .filter((each) => each.weight > 0 && !heardNow.has(each.text))
    .map((each) => line(each.text, "next", 0, NEXT_SIZE, 0.85));
  return [...past(heard, heardNow), ...now, ...next];
}

function past(heard: readonly Played[], except: ReadonlySet<string>): WalkLine[] {
  const seen = new Set(except);
  const lines: WalkLine[] = [];
  for (let index = heard.length - 1; index >= 0 && lines.length < PAST_LINES; index--) {
    const loudest = [...heard[index]!.prompts].sort((a, b) => b.weight - a.weight);
    for (const { text } of loudest) {
      if (seen.has(text) || lines.length >= PAST_LINES) continue;
      seen.add(text);
      lines.unshift(line(text, "past", 0, PAST_SIZES[lines.length]!, PAST_OPACITIES[lines.length]!));
    }
  }
  return lines;
}

function line(text: string, tense: Tense, share: number, size: number, opacity: number): WalkLine {
  return { key: text, text, tense, share, size, opacity };
}
