/** A random number in, a prompt worth hearing out. */

const PLAYERS = [
  "piano", "funky piano", "jazz piano", "church bells", "electronic beats", "saxophone", "blues guitar",
  "acoustic guitar", "strings", "typewriter taps", "flute", "trumpet", "violin", "organ", "marimba", "rock guitar", "choir",
];
const MOODS = ["slow", "fast", "calm", "bright", "dark", "gentle", "driving", "dreamy"];
const COMPANIONS = ["drums", "bass", "electronic beats", "strings", "church bells", "marimba"];

/** @param random as `Math.random`. */
export function rollPrompt(random: () => number = Math.random): string {
  const pick = (from: readonly string[]) => from[Math.floor(random() * from.length)]!;
  const player = pick(PLAYERS);
  const kind = random();
  if (kind < 0.35) return player;
  if (kind < 0.7) return `${pick(MOODS)} ${player}`;
  const companion = pick(COMPANIONS.filter((each) => each !== player));
  return `${player} and ${companion}`;
}

/** @returns a seed of nine digits at most: short enough to read out. */
export function rollSeed(random: () => number = Math.random): number {
  return Math.floor(random() * 1e9);
}
