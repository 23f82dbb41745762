/** What server and audio thread say in, the meter's reading and the banner's verdict out. */

import type { Status } from "./protocol";

/** Less than this ahead of the ear, once the music has settled, is about to fail. */
export const LOW_BUFFER_S = 0.5;

/** Where the server keeps little ahead, low is less. */
const LOW_SHARE = 0.15;

/** Music is not judged before it has played for so long: the first bar always plays on the edge. */
export const SETTLING_S = 4;

/** Lateness below this is not worth a word. */
const LATE_S = 0.05;

/** A server of this speed is not to blame. */
const FAST = 1.5;

/** A stumble keeps the banner up for this long. */
const MEMORY_S = 8;

export interface PaceFacts {
  status: Status | null;
  bufferedS: number;
  lookAheadS: number;
  playing: boolean;
  /** Seconds that were heard since the music began or came back. */
  heardS: number;
  /** Seconds since the ring last ran dry. */
  sinceUnderrunS: number;
  connected: boolean;
}

export interface Pace {
  behind: boolean;
  /** Whether less work for the server would help: else the line or the browser is late. */
  byWork: boolean;
  /** A sentence for the banner, or for the quiet line under the meter; may be empty. */
  text: string;
}

export function judgePace(facts: PaceFacts): Pace {
  const { status, bufferedS, lookAheadS, playing, heardS, sinceUnderrunS, connected } = facts;
  if (!playing || !connected) return { behind: false, byWork: false, text: "" };
  const late = (status?.behind_s ?? 0) > LATE_S;
  const low = heardS > SETTLING_S && bufferedS < Math.min(LOW_BUFFER_S, LOW_SHARE * lookAheadS);
  const behind = late || low || sinceUnderrunS < MEMORY_S;
  const note = status?.note ?? "";
  if (!behind) return { behind: false, byWork: false, text: note };
  const speed = status?.times_real_time;
  if (!late && speed && speed > FAST) {
    const text = `The music stumbled, though the machine makes it ${timesText(speed)} as fast as it plays: the line or this browser is behind.`;
    return { behind: true, byWork: false, text };
  }
  const cause = speed && speed < 1 ? ` It makes ${speed.toFixed(2)} s of music in a second.` : "";
  return { behind: true, byWork: true, text: note || `The machine is behind the music.${cause} Fewer steps would help.` };
}

/** "3.1×" or nothing yet. */
export function timesText(times: number | null | undefined): string {
  if (!times || !Number.isFinite(times)) return "–";
  return `${times >= 10 ? times.toFixed(0) : times.toFixed(1)}×`;
}
