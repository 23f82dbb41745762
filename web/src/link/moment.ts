/** A page address in, the moment of music it stands for out, and back: Riffusion's parameters, and ours beside them. */

import type { LiveConfig, Weighted } from "../live/protocol";

export interface Moment {
  prompts: Weighted[];
  seed: number;
  config: LiveConfig;
}

/** The most that a session takes. */
export const MAX_PROMPTS = 16;
const MAX_SEED = Number.MAX_SAFE_INTEGER;
const MAX_GLIDE = 100;

/** The audio thread holds a little more. */
const MAX_LOOK_AHEAD_S = 80;

/** Names of Riffusion's web app. `maskImageId` is kept in links but has no effect on a live session. */
const RIFFUSION = {
  guidance: "guidance",
  steps: "numInferenceSteps",
  strength: "denoising",
  seed_image: "seedImageId",
} as const;

/** @returns what the address says, and nothing that it does not. Values that cannot be read are left out. */
export function readMoment(search: string): Partial<Moment> {
  const query = new URLSearchParams(search);
  const moment: Partial<Moment> = {};
  const texts = query.getAll("prompt").map((text) => text.trim()).filter(Boolean).slice(0, MAX_PROMPTS);
  const weights = (query.get("weights") ?? "").split(",").map(Number);
  if (texts.length) {
    moment.prompts = texts.map((text, index) => ({ text, weight: weights[index]! > 0 ? weights[index]! : 1 }));
  }
  const seed = number(query, "seed", 0, MAX_SEED);
  if (seed !== undefined) moment.seed = Math.floor(seed);
  const config = readConfig(query);
  if (Object.keys(config).length) moment.config = config;
  return moment;
}

/** The address of a moment, without the page's own part: `?prompt=…&seed=…`. */
export function writeMoment({ prompts, seed, config }: Moment): string {
  const query = new URLSearchParams();
  for (const { text } of prompts) query.append("prompt", text);
  if (prompts.length > 1) query.set("weights", prompts.map((each) => round(each.weight)).join(","));
  query.set("seed", String(seed));
  const set = (name: string, value: unknown) => {
    if (value !== undefined && value !== null && value !== "") query.set(name, String(value));
  };
  set(RIFFUSION.strength, config.strength);
  // A picture of one's own is too long for an address.
  if (!config.seed_image?.startsWith("data:")) set(RIFFUSION.seed_image, config.seed_image);
  set(RIFFUSION.guidance, config.guidance);
  set(RIFFUSION.steps, config.steps);
  if (config.glide) set("alphaVelocity", round(1 / config.glide));
  set("negative", config.negative_prompt);
  set("sampler", config.sampler);
  set("lookAhead", config.look_ahead_s);
  return `?${query}`;
}

function readConfig(query: URLSearchParams): LiveConfig {
  const config: LiveConfig = {};
  const strength = number(query, RIFFUSION.strength, 0, 1);
  const guidance = number(query, RIFFUSION.guidance, 0, 100);
  const steps = number(query, RIFFUSION.steps, 1, 1000);
  const velocity = number(query, "alphaVelocity", 1 / MAX_GLIDE, 1);
  if (strength !== undefined) config.strength = strength;
  if (guidance !== undefined) config.guidance = guidance;
  if (steps !== undefined) config.steps = Math.round(steps);
  const lookAhead = number(query, "lookAhead", 0.1, MAX_LOOK_AHEAD_S);
  if (lookAhead !== undefined) config.look_ahead_s = lookAhead;
  if (velocity !== undefined) config.glide = Math.max(1, Math.round(1 / velocity));
  const image = query.get(RIFFUSION.seed_image);
  if (image && /^[\w-]{1,64}$/.test(image)) config.seed_image = image;
  const negative = query.get("negative");
  if (negative) config.negative_prompt = negative;
  const sampler = query.get("sampler");
  if (sampler && /^[\w+-]{1,64}$/.test(sampler)) config.sampler = sampler;
  return config;
}

function number(query: URLSearchParams, name: string, least: number, greatest: number): number | undefined {
  const text = query.get(name);
  if (text === null || text.trim() === "") return undefined;
  const value = Number(text);
  return Number.isFinite(value) && value >= least && value <= greatest ? value : undefined;
}

function round(value: number): number {
  return Math.round(value * 1000) / 1000;
}
