/** A strength of denoising in, how it feels out. */

export interface Daring {
  value: number;
  words: string;
}

/** Riffusion's steps, in words of our own. */
export const DARINGS: readonly Daring[] = [
  { value: 0.75, words: "keep it on beat" },
  { value: 0.8, words: "loosen the tie" },
  { value: 0.85, words: "wander off a little" },
  { value: 0.9, words: "follow the prompt" },
  { value: 0.95, words: "what beat?" },
];

/** The words nearest to a strength. */
export function daringOf(strength: number): Daring {
  return DARINGS.reduce((best, each) => (Math.abs(each.value - strength) < Math.abs(best.value - strength) ? each : best));
}
