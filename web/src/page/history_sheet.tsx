/** Clips in, a gallery of what was heard out: hear one again, go back to it, keep it. */

import { useEffect, useRef } from "react";

import type { LiveSession, Snapshot } from "../live/session";
import type { Clip } from "../live/timeline";
import { painted } from "../view/flat";
import { rampOf } from "../view/palette";
import { encode, fileName, minutes, save, FORMATS } from "./saving";
import { Sheet } from "./sheet";

interface Props {
  session: LiveSession;
  state: Snapshot;
  close: () => void;
  hear: (blob: Blob, title: string) => void;
}

export function HistorySheet({ session, state, close, hear }: Props) {
  const clips = state.clips.filter((clip) => clip.id <= state.heardClip).reverse();
  const sound = (clip: Clip, format: "wav" | "flac") => encode(format, session.soundOf(clip), session.channels, session.rate);
  return (
    <Sheet title="Clips" close={close}>
      {!clips.length && <p className="quiet">Every clip you hear comes to rest here, with its picture.</p>}
      <ol className="flex flex-col gap-5">
        {clips.map((clip) => {
          const words = clip.prompts.map((each) => each.text).join(" + ");
          return (
            <li key={clip.id}>
              <button type="button" className="group block w-full overflow-hidden rounded-xl border border-line text-left hover:border-cream/60" aria-label={`Hear again: ${words}, at ${minutes(clip.start / session.rate)}`} onClick={() => hear(sound(clip, "wav"), words)}>
                <Thumbnail clip={clip} />
                <span className="block px-3 py-2 font-serif text-xl leading-tight">
                  {words}
                  <span className="quiet block font-sans tabular-nums">
                    {minutes(clip.start / session.rate)} · seed {clip.seed}
                  </span>
                </span>
              </button>
              <div className="mt-1.5 flex flex-wrap gap-2 text-sm">
                <button type="button" className="chip py-1" onClick={() => session.steer(clip.prompts, clip.seed)}>
                  Go back to this
                </button>
                {FORMATS.map((format) => (
                  <button key={format} type="button" className="chip py-1 uppercase" aria-label={`Save as ${format}`} onClick={() => save(sound(clip, format), fileName(clip.prompts, clip.seed, format))}>
                    {format}
                  </button>
                ))}
              </div>
            </li>
          );
        })}
      </ol>
    </Sheet>
  );
}

function Thumbnail({ clip }: { clip: Clip }) {
  const holder = useRef<HTMLSpanElement>(null);
  const { picture } = clip;
  useEffect(() => {
    let over = false;
    if (picture) void draw(picture);
    async function draw(url: string) {
      const answer = await fetch(url).catch(() => null);
      if (!answer?.ok || over) return;
      const canvas = painted(await createImageBitmap(await answer.blob()), rampOf(clip.prompts));
      canvas.className = "block h-20 w-full";
      if (!over) holder.current?.replaceChildren(canvas);
    }
    return () => {
      over = true;
    };
    // A clip's prompts never change.
  }, [picture]);
  return <span ref={holder} className="block h-20 bg-night" aria-hidden="true" />;
}
