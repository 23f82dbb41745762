/** The server's `/schema` in, the controls that the page may show out. */

import { authorised } from "./key";

export interface JsonSchema {
  type?: string | string[];
  anyOf?: JsonSchema[];
  enum?: (string | number | null)[];
  minimum?: number;
  maximum?: number;
  default?: unknown;
  description?: string;
  title?: string;
  properties?: Record<string, JsonSchema>;
}

export interface SeedImage {
  id: string;
  label: string;
  bpm: number;
  url: string;
}

export interface Schema {
  version: string;
  model: { name: string; sample_rate: number; channels: number; clip_s: number; columns: number; bands: number };
  samplers: string[];
  formats: string[];
  seed_images: SeedImage[];
  live: { look_ahead_s: number; block_s?: number };
  requests: Record<string, JsonSchema>;
}

/** What the page assumes until the server has answered. */
export const ASSUMED: Schema = {
  version: "",
  model: { name: "", sample_rate: 44100, channels: 1, clip_s: 5.12, columns: 512, bands: 512 },
  samplers: [],
  formats: ["wav"],
  seed_images: [],
  live: { look_ahead_s: 7.68 },
  requests: {},
};

export type Field =
  | { kind: "number"; name: string; least: number; greatest: number; step: number; standard: number | null; about: string }
  | { kind: "choice"; name: string; choices: string[]; standard: string | null; about: string }
  | { kind: "text"; name: string; about: string };

/** Widest useful ranges of sliders, where a request allows far more than anybody wants. */
const SLIDER_ENDS: Record<string, [number, number]> = { steps: [1, 60], guidance: [0, 20], glide: [1, 16], clips_a_seed: [1, 16], duration_s: [1, 120], look_ahead_s: [1, 30] };

/** A property of a request as a control; null for what has none. */
export function fieldOf(name: string, schema: JsonSchema | undefined): Field | null {
  if (!schema) return null;
  const flat = flattened(schema);
  const about = flat.description ?? "";
  const choices = flat.enum?.filter((each): each is string => typeof each === "string") ?? [];
  if (choices.length) return { kind: "choice", name, choices, standard: text(flat.default), about };
  const types = [flat.type ?? []].flat();
  if (types.includes("integer") || types.includes("number")) {
    if (flat.minimum === undefined || flat.maximum === undefined) return null;
    const [low, high] = SLIDER_ENDS[name] ?? [flat.minimum, flat.maximum];
    const least = Math.max(low, flat.minimum);
    const greatest = Math.min(high, flat.maximum);
    const step = types.includes("integer") ? 1 : greatest - least <= 1 ? 0.01 : 0.5;
    const standard = typeof flat.default === "number" ? flat.default : null;
    return { kind: "number", name, least, greatest, step, standard, about };
  }
  return types.includes("string") ? { kind: "text", name, about } : null;
}

/** Why there is no schema: the server wants a key, or is not ready, or is not there. */
export class NoSchema extends Error {
  constructor(
    readonly cause: "key" | "busy" | "away",
    message: string,
  ) {
    super(message);
  }
}

/** @throws NoSchema */
export async function fetchSchema(): Promise<Schema> {
  const answer = await authorised("/api/v1/schema").catch((error: Error) => {
    throw new NoSchema("away", error.message);
  });
  if (!answer.ok) {
    const body = (await answer.json().catch(() => null)) as { error?: { message?: string } } | null;
    const cause = answer.status === 401 ? "key" : answer.status === 503 || answer.status === 429 ? "busy" : "away";
    throw new NoSchema(cause, body?.error?.message ?? `The server answers ${answer.status}`);
  }
  const given = (await answer.json()) as Partial<Schema>;
  return {
    ...ASSUMED,
    ...given,
    model: { ...ASSUMED.model, ...given.model },
    live: { ...ASSUMED.live, ...given.live },
  };
}

function flattened(schema: JsonSchema): JsonSchema {
  const inner = schema.anyOf?.find((each) => each.type !== "null");
  return inner ? { ...inner, ...schema, type: inner.type, enum: inner.enum ?? schema.enum } : schema;
}

function text(value: unknown): string | null {
  return typeof value === "string" ? value : null;
}
