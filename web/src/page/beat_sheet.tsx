/** Seed images and daring in words in, the beat that the music keeps out. */

import { useState } from "react";

import { DARINGS, daringOf } from "../link/wording";
import type { LiveSession, Snapshot } from "../live/session";
import type { Schema } from "../server/schema";
import { Sheet } from "./sheet";

/** A spectrogram of twenty seconds is under a megabyte: more is a photograph. */
const MAX_UPLOAD_BYTES = 4_000_000;

interface Props {
  session: LiveSession;
  state: Snapshot;
  schema: Schema;
  close: () => void;
}

export function BeatSheet({ session, state, schema, close }: Props) {
  const { config } = state.moment;
  const [problem, setProblem] = useState("");
  const chosen = config.seed_image ?? null;
  const own = chosen?.startsWith("data:") ? chosen : null;
  const choose = (seed_image: string | null) => session.configure({ seed_image });

  const upload = async (file: File | undefined) => {
    if (!file) return;
    if (!file.type.startsWith("image/") || file.size > MAX_UPLOAD_BYTES) {
      setProblem("Choose a picture of a spectrogram, of 4 MB at most.");
      return;
    }
    setProblem("");
    choose(await dataUrl(file));
  };

  return (
    <Sheet title="Beat" close={close}>
      <fieldset>
        <legend className="mb-2">Start every clip from</legend>
        <div className="grid grid-cols-2 gap-2.5">
          <Choice label="Nothing" about="the prompt alone" picture={null} checked={chosen === null} choose={() => choose(null)} />
          {schema.seed_images.map((image) => (
            <Choice key={image.id} label={image.label || image.id} about={`${Math.round(image.bpm)} BPM`} picture={image.url} checked={chosen === image.id} choose={() => choose(image.id)} />
          ))}
          {own && <Choice label="Your picture" about="" picture={own} checked choose={() => choose(own)} />}
        </div>
      </fieldset>
      <div>
        <label className="chip cursor-pointer focus-within:outline-2 focus-within:outline-coral">
          Use a spectrogram of your own
          <input type="file" accept="image/png,image/jpeg,image/webp" className="sr-only" onChange={(event) => void upload(event.target.files?.[0])} />
        </label>
        {problem && <p role="alert" className="mt-2 text-coral">{problem}</p>}
      </div>
      <fieldset disabled={chosen === null} className="disabled:opacity-60">
        <legend className="mb-2">How far from it</legend>
        <div className="flex flex-wrap gap-2">
          {DARINGS.map(({ value, words }) => (
            <label key={value} className="cursor-pointer">
              <input type="radio" name="daring" className="peer sr-only" checked={config.strength != null && daringOf(config.strength).value === value} onChange={() => session.configure({ strength: value })} />
              <span className="chip peer-checked:border-cream peer-checked:bg-cream peer-checked:text-night peer-focus-visible:outline-2 peer-focus-visible:outline-coral" title={`Denoising ${value}`}>
                {words}
              </span>
            </label>
          ))}
        </div>
        <p className="quiet mt-2">{config.strength == null ? "As the model likes it." : `Denoising ${config.strength}`}</p>
      </fieldset>
    </Sheet>
  );
}

interface ChoiceProps {
  label: string;
  about: string;
  picture: string | null;
  checked: boolean;
  choose: () => void;
}

function Choice({ label, about, picture, checked, choose }: ChoiceProps) {
  return (
    <label className="cursor-pointer">
      <input type="radio" name="seed-image" className="peer sr-only" checked={checked} onChange={choose} />
      <span className="block overflow-hidden rounded-xl border border-line peer-checked:border-coral peer-checked:ring-1 peer-checked:ring-coral peer-focus-visible:outline-2 peer-focus-visible:outline-coral">
        {picture ? <img src={picture} alt="" className="h-14 w-full object-cover object-bottom opacity-80 invert" loading="lazy" /> : <span className="block h-14 bg-night" />}
        <span className="block px-3 py-1.5 leading-tight">
          {label}
          <span className="quiet block">{about || "\u00a0"}</span>
        </span>
      </span>
    </label>
  );
}

function dataUrl(file: File): Promise<string> {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result as string);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}
