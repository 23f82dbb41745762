/** Several prompts with weights in, one steered walk out. */

import { useRef, useState } from "react";

import { MAX_PROMPTS } from "../link/moment";
import { rollPrompt } from "../link/dice";
import type { LiveSession } from "../live/session";
import type { Weighted } from "../live/protocol";
import { Icon } from "./icons";
import { Sheet } from "./sheet";

/** A slider is followed this long after it came to rest. */
const REST_MS = 250;

interface Row extends Weighted {
  key: number;
}

export function MixSheet({ session, close }: { session: LiveSession; close: () => void }) {
  const keys = useRef(0);
  const given = session.snapshot().moment.prompts;
  const [rows, setRows] = useState<Row[]>(() =>
    (given.length ? given : [{ text: "", weight: 1 }]).map((each) => ({ ...each, key: keys.current++ })),
  );
  const timer = useRef<ReturnType<typeof setTimeout>>(undefined);

  const change = (next: Row[]) => {
    setRows(next);
    clearTimeout(timer.current);
    const heard = next.filter((row) => row.text.trim() && row.weight > 0);
    if (!heard.length) return;
    timer.current = setTimeout(() => session.steer(heard.map(({ text, weight }) => ({ text: text.trim(), weight }))), REST_MS);
  };
  const edit = (key: number, part: Partial<Row>) => change(rows.map((row) => (row.key === key ? { ...row, ...part } : row)));
  const total = rows.reduce((sum, row) => sum + row.weight, 0) || 1;

  return (
    <Sheet title="Mix" close={close}>
      <p className="quiet">Several prompts at once, each as strong as its slider says.</p>
      <ul className="flex flex-col gap-5">
        {rows.map((row, index) => (
          <li key={row.key}>
            <div className="flex items-center gap-2">
              <input
                aria-label={`Prompt ${index + 1}`}
                className="text-field font-serif text-xl"
                value={row.text}
                maxLength={2000}
                placeholder="another sound"
                onChange={(event) => edit(row.key, { text: event.target.value })}
              />
              <button type="button" aria-label={`Remove prompt ${index + 1}`} className="grid size-10 shrink-0 place-items-center rounded-full hover:bg-cream/10" disabled={rows.length === 1} onClick={() => change(rows.filter((each) => each.key !== row.key))}>
                <Icon name="close" size={15} />
              </button>
            </div>
            <label className="mt-1 flex items-center gap-3 text-sm">
              <span className="sr-only">Weight of prompt {index + 1}</span>
              <input type="range" min={0} max={2} step={0.05} value={row.weight} onChange={(event) => edit(row.key, { weight: Number(event.target.value) })} />
              <span className="w-14 text-right whitespace-nowrap text-mist tabular-nums">{Math.round((100 * row.weight) / total)} %</span>
            </label>
          </li>
        ))}
      </ul>
      <div className="flex gap-2">
        <button type="button" className="chip" disabled={rows.length >= MAX_PROMPTS} onClick={() => change([...rows, { text: "", weight: 1, key: keys.current++ }])}>
          <Icon name="make" size={15} /> Add a prompt
        </button>
        <button type="button" className="chip" disabled={rows.length >= MAX_PROMPTS} onClick={() => change([...rows, { text: rollPrompt(), weight: 0.5, key: keys.current++ }])}>
          <Icon name="dice" size={15} /> Add a surprise
        </button>
      </div>
    </Sheet>
  );
}
