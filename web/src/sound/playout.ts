/** A ring in, what the loudspeaker gets out: untouched samples, and no click where they begin, stop or run out. */

import type { Ring } from "./ring";

/** Length of fades at play, pause and after silence: under a note's attack, over a click. */
export const FADE_S = 0.008;

/** Music begins, and begins again after it ran dry, with this much in hand: one late block makes one pause, not ten. */
export const CUSHION_S = 0.4;

/** What happened so far, for the meter and for the clock. */
export interface PlayoutReport {
  /** Frames of the session handed to the loudspeaker. */
  played: number;
  buffered: number;
  /** How often the ring ran dry while it should have played. */
  underruns: number;
  /** Frames that the server never sent. */
  missing: number;
  /** Whether frames are being played. */
  moving: boolean;
}

/**
 * Plays a ring. While it plays at full level, samples pass bit for bit. Where the ring runs dry the last moment is
 * mirrored and faded (a continuous tail instead of a step to zero), and the music fades in when it is back.
 */
export class Playout {
  private wanted = false;
  private level = 0;
  private dry = true;
  private underruns = 0;
  private readonly slope: number;
  private readonly history: Float32Array[];
  private tail: Float32Array[] | null = null;
  private tailAt = 0;

  constructor(
    private readonly ring: Ring,
    channels: number,
    private readonly rate: number,
  ) {
    this.slope = 1 / Math.round(FADE_S * rate);
    this.history = Array.from({ length: channels }, () => new Float32Array(Math.round(FADE_S * rate)));
  }

  play(): void {
    this.wanted = true;
  }

  pause(): void {
    this.wanted = false;
  }

  report(): PlayoutReport {
    return {
      played: this.ring.position,
      buffered: this.ring.buffered,
      underruns: this.underruns,
      missing: this.ring.missing,
      moving: !this.dry && (this.wanted || this.level > 0),
    };
  }

  /** Fill all of `out`, one array a channel. */
  render(out: readonly Float32Array[]): void {
    const frames = out[0]?.length ?? 0;
    if (this.dry && this.wanted && this.ring.buffered >= CUSHION_S * this.rate) {
      this.dry = false;
      this.level = 0;
    }
    let done = 0;
    if (!this.dry && (this.wanted || this.level > 0)) {
      const needed = this.wanted ? frames : Math.min(frames, Math.ceil(this.level / this.slope));
      done = this.ring.read(out, needed);
      this.fade(out, done);
      this.remember(out, done);
      if (done < needed) this.ranDry();
    }
    for (const channel of out) channel.fill(0, done);
    this.addTail(out, this.dry ? done : 0);
  }

  private fade(out: readonly Float32Array[], frames: number): void {
    const target = this.wanted ? 1 : 0;
    if (this.level === target) return;
    for (let index = 0; index < frames; index++) {
      this.level = this.wanted ? Math.min(1, this.level + this.slope) : Math.max(0, this.level - this.slope);
      for (const channel of out) channel[index]! *= this.level;
    }
  }

  private ranDry(): void {
    this.dry = true;
    this.level = 0;
    this.underruns += 1;
    this.tail = this.history.map((past) => {
      const length = past.length;
      return past.map((_, index) => past[length - 1 - index]! * (1 - (index + 1) / length));
    });
    this.tailAt = 0;
  }

  private addTail(out: readonly Float32Array[], from: number): void {
    if (this.tail === null) return;
    const length = this.tail[0]?.length ?? 0;
    const count = Math.min((out[0]?.length ?? 0) - from, length - this.tailAt);
    out.forEach((channel, number) => {
      const tail = this.tail![number]!;
      for (let index = 0; index < count; index++) channel[from + index]! += tail[this.tailAt + index]!;
    });
    this.tailAt += count;
    if (this.tailAt >= length) this.tail = null;
  }

  private remember(out: readonly Float32Array[], frames: number): void {
    out.forEach((channel, number) => {
      const past = this.history[number]!;
      const kept = Math.min(frames, past.length);
      past.copyWithin(0, kept);
      past.set(channel.subarray(frames - kept, frames), past.length - kept);
    });
  }
}
