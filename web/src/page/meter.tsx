/** The session's pace in, a line at the top out: how fast the machine is, and how much music lies ready. */

import { timesText } from "../live/pace";
import type { Snapshot } from "../live/session";

export function Meter({ state }: { state: Snapshot }) {
  const { phase, bufferedS, lookAheadS, status, connected, pace } = state;
  if (phase === "asleep" || phase === "over") return null;
  const share = Math.min(1, bufferedS / Math.max(1, lookAheadS));
  const words = !connected && phase !== "waking" ? "reconnecting" : phase === "waking" ? "making the first bar" : phase;
  return (
    <div className="text-right text-sm" data-testid="meter">
      <p className="flex items-center justify-end gap-2.5 whitespace-nowrap tabular-nums">
        <span className="text-mist">{words}</span>
        <span title="Seconds of music made in a second">
          {timesText(status?.times_real_time)} <span className="text-mist max-md:sr-only">real time</span>
        </span>
        <span
          role="meter"
          aria-label="Music that lies ready"
          aria-valuemin={0}
          aria-valuemax={Math.round(lookAheadS * 10) / 10}
          aria-valuenow={Math.round(Math.min(bufferedS, lookAheadS) * 10) / 10}
          aria-valuetext={`${bufferedS.toFixed(1)} seconds`}
          className="h-1.5 w-16 overflow-hidden rounded-full bg-cream/20"
        >
          <span className={`block h-full rounded-full ${pace.behind ? "bg-coral" : "bg-cream"}`} style={{ width: `${share * 100}%` }} />
        </span>
        <span className="w-14 text-left">{bufferedS.toFixed(1)} s</span>
      </p>
      {!pace.behind && pace.text && <p className="quiet">{pace.text}</p>}
    </div>
  );
}

/** What needs attention: the machine is behind, the line dropped, the server refused. */
export function Banner({ state, fewerSteps, dismiss }: { state: Snapshot; fewerSteps: (() => void) | null; dismiss: () => void }) {
  const { pace, failure, connected, phase } = state;
  const away = !connected && (phase === "playing" || phase === "paused");
  return (
    <div role="status" aria-live="polite" className="flex flex-col gap-2 empty:hidden">
      {pace.behind && (
        <p data-testid="behind" className="flex flex-wrap items-center gap-3 rounded-xl border border-coral/70 bg-night/85 px-4 py-2.5">
          {pace.text}
          {pace.byWork && fewerSteps && (
            <button type="button" className="chip py-1" onClick={fewerSteps}>
              Take fewer steps
            </button>
          )}
        </p>
      )}
      {away && <p data-testid="away" className="rounded-xl border border-line bg-night/85 px-4 py-2.5">The line to the server dropped. What is here plays on; trying again.</p>}
      {failure && (
        <p data-testid="failure" className="flex flex-wrap items-center gap-3 rounded-xl border border-coral/70 bg-night/85 px-4 py-2.5">
          {failure.message}
          {failure.hint ? ` ${failure.hint}` : ""}
          <button type="button" className="chip py-1" onClick={dismiss}>
            Dismiss
          </button>
        </p>
      )}
    </div>
  );
}
