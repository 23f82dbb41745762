/** A property of the server's schema in, a labelled control out. */

import { useEffect, useState } from "react";

import type { Field } from "../server/schema";

const LABELS: Record<string, string> = {
  guidance: "Guidance",
  steps: "Steps",
  sampler: "Sampler",
  glide: "Glide",
  negative_prompt: "Stay away from",
  strength: "Daring",
  duration_s: "Length",
  seed: "Seed",
};
const UNITS: Record<string, string> = { duration_s: " s", glide: " clips" };
const REST_MS = 250;

interface Props {
  field: Field;
  value: unknown;
  change: (value: number | string | null) => void;
}

/** `null` stands for the model's own default. */
export function FieldControl({ field, value, change }: Props) {
  const label = LABELS[field.name] ?? sentence(field.name);
  const [draft, setDraft] = useState<string | null>(null);
  useEffect(() => {
    if (draft === null) return;
    const timer = setTimeout(() => {
      setDraft(null);
      change(field.kind === "number" ? Number(draft) : draft);
    }, REST_MS);
    return () => clearTimeout(timer);
    // The newest `change` does the same as the one of the keystroke.
  }, [draft]);

  if (field.kind === "choice") {
    return (
      <label className="block">
        <span className="mb-1 block">{label}</span>
        <select className="text-field" value={typeof value === "string" ? value : ""} onChange={(event) => change(event.target.value || null)}>
          <option value="">{field.standard ? `As the model likes it (${field.standard})` : "As the model likes it"}</option>
          {field.choices.map((each) => (
            <option key={each}>{each}</option>
          ))}
        </select>
      </label>
    );
  }
  if (field.kind === "text") {
    return (
      <label className="block">
        <span className="mb-1 block">{label}</span>
        <input className="text-field" maxLength={2000} value={draft ?? (typeof value === "string" ? value : "")} onChange={(event) => setDraft(event.target.value)} />
        {field.about && <span className="quiet mt-1 block">{field.about}</span>}
      </label>
    );
  }
  const standard = field.standard ?? (field.least + field.greatest) / 2;
  const shown = draft ?? (typeof value === "number" ? value : standard);
  const chosen = draft !== null || typeof value === "number";
  return (
    <div>
      <label className="block">
        <span className="flex items-baseline justify-between">
          <span>{label}</span>
          <span className="text-mist tabular-nums">{chosen || field.standard !== null ? `${shown}${UNITS[field.name] ?? ""}` : "as the model likes it"}</span>
        </span>
        <input type="range" min={field.least} max={field.greatest} step={field.step} value={shown} onChange={(event) => setDraft(event.target.value)} />
      </label>
      {field.about && <p className="quiet">{field.about}</p>}
    </div>
  );
}

function sentence(name: string): string {
  const words = name.replace(/_s$/, "").replaceAll("_", " ");
  return words.charAt(0).toUpperCase() + words.slice(1);
}
