/** Sound and a name in, a file on the listener's disk out. */

import { flacFile } from "../sound/flac";
import { wavFile } from "../sound/wav";

export type SoundFormat = "wav" | "flac";

export const FORMATS: readonly SoundFormat[] = ["wav", "flac"];

export function encode(format: SoundFormat, pieces: readonly Int16Array[], channels: number, rate: number): Blob {
  return format === "wav" ? wavFile(pieces, channels, rate) : flacFile(pieces, channels, rate);
}

export function save(blob: Blob, name: string): void {
  const address = URL.createObjectURL(blob);
  const link = document.createElement("a");
  link.href = address;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}

/** "funky piano" and a seed as a file's name. */
export function fileName(prompts: readonly { text: string }[], seed: number, format: string): string {
  const words = prompts.map((each) => each.text).join(" ").toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-+|-+$/g, "");
  return `${words.slice(0, 60) || "riffusion"}-${seed}.${format}`;
}

export function minutes(seconds: number): string {
  const whole = Math.floor(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}
