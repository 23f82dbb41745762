/** The walk's lines in, the words that float over the music out: past, now, up next. */

import { memo } from "react";

import type { WalkLine } from "../live/walk";

const TENSES = { past: "Before", now: "Now", next: "Up next" } as const;

/** Long prompts are set smaller, so that they stay a few lines. */
function lengthScale(text: string): number {
  if (text.length > 120) return 0.4;
  if (text.length > 60) return 0.55;
  return text.length > 24 ? 0.78 : 1;
}

interface Props {
  lines: WalkLine[];
  asleep: boolean;
  /** A past line was chosen. */
  back: (text: string) => void;
}

export const Stack = memo(function Stack({ lines, asleep, back }: Props) {
  return (
    <ol aria-label="Prompts" className="flex flex-col items-start gap-1.5 font-serif">
      {lines.map((line) => {
        const style = { fontSize: `calc(var(--stack) * ${(line.size * lengthScale(line.text)).toFixed(3)})`, opacity: line.opacity };
        const hint = asleep && line.tense === "next" ? "" : TENSES[line.tense];
        return (
          <li key={`${line.tense === "past" ? "past" : ""}${line.key}`} className="stack-line max-w-full leading-[1.04] break-words" style={style} data-tense={line.tense} data-share={line.share.toFixed(2)}>
            <span className="sr-only">{hint ? `${hint}: ` : ""}</span>
            {line.tense === "past" ? (
              <button type="button" className="text-left hover:text-coral" title="Go back to this prompt" onClick={() => back(line.text)}>
                {line.text}
              </button>
            ) : (
              <span className={line.tense === "next" ? "italic" : ""}>
                {line.tense === "next" && !asleep && <span className="mr-3 align-middle font-sans text-[13px] tracking-wide text-mist not-italic" aria-hidden="true">up next</span>}
                {line.text}
              </span>
            )}
          </li>
        );
      })}
    </ol>
  );
});
