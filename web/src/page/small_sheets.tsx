/** The short sheets: a link to this moment, what was recorded, what goes on inside. */

import { useEffect, useMemo, useState } from "react";

import { writeMoment } from "../link/moment";
import type { LiveSession, Snapshot } from "../live/session";
import type { Recording } from "../sound/recorder";
import { encode, fileName, FORMATS, minutes, save } from "./saving";
import { Sheet } from "./sheet";

export function ShareSheet({ session, close }: { session: LiveSession; close: () => void }) {
  const [link] = useState(() => `${location.origin}${location.pathname}${writeMoment(session.heardMoment())}`);
  const [copied, setCopied] = useState(false);
  const copy = () => {
    void navigator.clipboard?.writeText(link).then(() => setCopied(true), () => setCopied(false));
  };
  return (
    <Sheet title="Share" close={close}>
      <p className="quiet">Whoever opens this link hears this moment: its prompts, its seed, its settings.</p>
      <input readOnly aria-label="Link to this moment" className="text-field" value={link} onFocus={(event) => event.currentTarget.select()} />
      <div className="flex gap-2">
        <button type="button" className="solid px-5" onClick={copy}>
          {copied ? "Copied" : "Copy the link"}
        </button>
        {"share" in navigator && (
          <button type="button" className="chip" onClick={() => void navigator.share({ title: "Riffusion live", url: link }).catch(() => undefined)}>
            Send it
          </button>
        )}
      </div>
      <p role="status" className="sr-only">{copied ? "The link is copied" : ""}</p>
    </Sheet>
  );
}

export function RecordingSheet({ session, state, recording, close }: { session: LiveSession; state: Snapshot; recording: Recording; close: () => void }) {
  const seconds = recording.frames / session.rate;
  const { channels, rate } = session;
  const address = useMemo(() => URL.createObjectURL(encode("wav", recording.pieces, channels, rate)), [recording, channels, rate]);
  useEffect(() => () => URL.revokeObjectURL(address), [address]);
  const { prompts } = state.moment;
  return (
    <Sheet title="Recording" close={close}>
      <p>
        {minutes(seconds)} <span className="quiet">({seconds.toFixed(2)} s) of exactly what you heard.</span>
      </p>
      <audio controls src={address} aria-label="The recording" className="w-full" onPlay={() => session.pause()} />
      <p className="flex gap-2">
        {FORMATS.map((format) => (
          <button key={format} type="button" className="solid px-5 uppercase" aria-label={`Save as ${format}`} onClick={() => save(encode(format, recording.pieces, channels, rate), fileName(prompts, state.heardSeed, format))}>
            {format}
          </button>
        ))}
      </p>
    </Sheet>
  );
}

export function InsideSheet({ state, close }: { state: Snapshot; close: () => void }) {
  const { status } = state;
  const clip = state.clips.find((each) => each.id === state.heardClip);
  const facts: [string, string][] = [
    ["State", `${state.phase}${state.connected ? "" : ", no line"}`],
    ["Session", state.sessionId ?? "none yet"],
    ["Heard", `${state.heardS.toFixed(2)} s`],
    ["Lies ready", `${state.bufferedS.toFixed(2)} of ${state.lookAheadS.toFixed(2)} s`],
    ["Ran dry", `${state.underruns} times`],
    ["Never came", `${state.missing} frames`],
    ["Loudspeaker's delay", `${state.latencyMs.toFixed(0)} ms`],
    ["Times real time", status?.times_real_time?.toFixed(2) ?? "not known"],
    ["Behind", `${(status?.behind_s ?? 0).toFixed(2)} s`],
    ["Steps", status?.steps ? `${status.steps} of ${status.wanted_steps ?? status.steps}` : "not known"],
    ["Clip", clip ? `${clip.id}, made in ${clip.computeS.toFixed(2)} s` : "none yet"],
    ["Walk", `seed ${state.heardSeed}, alpha ${state.alpha.toFixed(2)}`],
    ["Heard mixture", state.walk.filter((line) => line.tense === "now").map((line) => `${line.text} ${Math.round(line.share * 100)} %`).join(", ") || "none"],
    ["Clips kept", String(state.clips.length)],
    ["Note", clip?.note || status?.note || "none"],
  ];
  return (
    <Sheet title="Inside" close={close}>
      <dl className="grid grid-cols-[auto_1fr] gap-x-5 gap-y-1.5 text-sm tabular-nums">
        {facts.map(([name, value]) => (
          <div key={name} className="contents">
            <dt className="text-mist">{name}</dt>
            <dd className="break-words" data-fact={name}>{value}</dd>
          </div>
        ))}
      </dl>
    </Sheet>
  );
}
