/** The schema's ranges in, a control for each setting of the running session out. */

import { rollSeed } from "../link/dice";
import type { LiveConfig } from "../live/protocol";
import type { LiveSession, Snapshot } from "../live/session";
import { fieldOf, type Field, type Schema } from "../server/schema";
import { FieldControl } from "./field";
import { Icon } from "./icons";
import { Sheet } from "./sheet";

/** Settings that have a place of their own. */
const ELSEWHERE = new Set(["prompts", "prompt", "seed", "seed_image", "strength", "format", "session", "from_frame", "type", "look_ahead_s"]);
const FIRST = ["guidance", "steps", "glide", "negative_prompt", "sampler"];

interface Props {
  session: LiveSession;
  state: Snapshot;
  schema: Schema;
  close: () => void;
}

export function SoundSheet({ session, state, schema, close }: Props) {
  const config = state.moment.config as Record<string, unknown>;
  return (
    <Sheet title="Sound" close={close}>
      <SeedField session={session} seed={state.moment.seed} heard={state.heardSeed} />
      {liveFields(schema).map((field) => (
        <FieldControl key={field.name} field={field} value={config[field.name]} change={(value) => session.configure({ [field.name]: value } as LiveConfig)} />
      ))}
      <button
        type="button"
        className="chip self-start"
        onClick={() => session.configure({ guidance: null, steps: null, sampler: null, glide: null, negative_prompt: "" })}
      >
        As the model likes it
      </button>
    </Sheet>
  );
}

/** Controls of a running session, the important ones first. */
export function liveFields(schema: Schema): Field[] {
  const properties = schema.requests["live"]?.properties ?? {};
  const nested = properties["config"]?.properties ?? {};
  const all = { ...nested, ...properties };
  const names = [...FIRST.filter((name) => name in all), ...Object.keys(all).filter((name) => !FIRST.includes(name))];
  return names.filter((name) => !ELSEWHERE.has(name)).flatMap((name) => {
    const field = fieldOf(name, name === "sampler" && schema.samplers.length ? { ...all[name], enum: schema.samplers } : all[name]);
    return field ? [field] : [];
  });
}

function SeedField({ session, seed, heard }: { session: LiveSession; seed: number; heard: number }) {
  return (
    <div>
      <label className="block">
        <span className="flex items-baseline justify-between">
          <span>Seed</span>
          {heard !== seed && <span className="quiet">now heard: {heard}</span>}
        </span>
        <span className="mt-1 flex gap-2">
          <input
            className="text-field tabular-nums"
            inputMode="numeric"
            key={seed}
            defaultValue={seed}
            onBlur={(event) => applySeed(session, event.target.value, seed)}
            onKeyDown={(event) => {
              if (event.key === "Enter") applySeed(session, event.currentTarget.value, seed);
            }}
          />
          <button type="button" className="chip" aria-label="Roll a seed" onClick={() => session.reseed(rollSeed())}>
            <Icon name="dice" />
          </button>
        </span>
      </label>
      <p className="quiet mt-1">The same seed and prompt bring the same music. The walk goes on from seed to seed.</p>
    </div>
  );
}

function applySeed(session: LiveSession, text: string, before: number): void {
  const value = Number(text);
  if (Number.isSafeInteger(value) && value >= 0 && value !== before) session.reseed(value);
}
