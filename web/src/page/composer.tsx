/** Words in, music out: the one text box, with the play button and the dice beside it. */

import { useState, type RefObject } from "react";

import { rollPrompt } from "../link/dice";
import type { LiveSession, Snapshot } from "../live/session";
import { Icon } from "./icons";

const FIRST = ["funky piano", "church bells", "typewriter taps", "dreamy strings"];

interface Props {
  session: LiveSession;
  state: Snapshot;
  box: RefObject<HTMLInputElement | null>;
}

export function Composer({ session, state, box }: Props) {
  const [text, setText] = useState("");
  const { phase, moment } = state;
  const going = phase === "playing" || phase === "waking";
  const fresh = moment.prompts.length === 0;

  const send = (prompt: string) => {
    const words = prompt.trim();
    if (!words) {
      if (!going) void session.play();
      return;
    }
    session.steer([{ text: words, weight: 1 }]);
    setText("");
    if (!going) void session.play();
  };

  return (
    <div>
      {fresh && (
        <ul aria-label="Try one of these" className="mb-4 flex flex-wrap gap-2">
          {FIRST.map((each) => (
            <li key={each}>
              <button type="button" className="chip bg-night/50" onClick={() => send(each)}>
                {each}
              </button>
            </li>
          ))}
        </ul>
      )}
      <form
        className="flex items-center gap-3 md:gap-4"
        onSubmit={(event) => {
          event.preventDefault();
          send(text);
        }}
      >
        <button
          type="button"
          aria-label={going ? "Pause" : "Play"}
          aria-keyshortcuts="Space"
          disabled={fresh && !text.trim()}
          className="grid size-14 shrink-0 place-items-center rounded-full bg-coral text-night transition hover:scale-105 disabled:bg-cream/25 disabled:text-cream disabled:opacity-100"
          onClick={() => (text.trim() && !going ? send(text) : session.toggle())}
        >
          <Icon name={going ? "pause" : "play"} size={26} />
        </button>
        <label className="min-w-0 flex-1">
          <span className="sr-only">What should be heard?</span>
          <input
            ref={box}
            name="prompt"
            value={text}
            onChange={(event) => setText(event.target.value)}
            placeholder={fresh ? "What should be heard?" : "Where to next?"}
            maxLength={2000}
            autoComplete="off"
            autoCapitalize="off"
            enterKeyHint="go"
            aria-keyshortcuts="/"
            className="w-full rounded-none border-b border-cream/40 bg-transparent pb-2 font-serif text-[1.65rem] italic placeholder:text-mist focus:border-cream focus:outline-none md:text-[2.6rem]"
          />
        </label>
        {text.trim() && (
          <button type="submit" aria-label="Play this prompt" className="grid size-11 shrink-0 place-items-center rounded-full border border-cream/60 hover:bg-cream/10">
            <Icon name="send" size={22} />
          </button>
        )}
        <button type="button" aria-label="Roll a prompt" title="Roll a prompt (D)" aria-keyshortcuts="D" className="grid size-11 shrink-0 place-items-center rounded-full hover:bg-cream/10" onClick={() => send(rollPrompt())}>
          <Icon name="dice" size={24} />
        </button>
      </form>
    </div>
  );
}
