/** What the live session's WebSocket carries: messages as types, one binary block parsed and checked. */

export interface Weighted {
  text: string;
  weight: number;
}

/** Settings that a running session takes; `null` is the model's own default. */
export interface LiveConfig {
  guidance?: number | null;
  steps?: number | null;
  sampler?: string | null;
  negative_prompt?: string;
  seed_image?: string | null;
  strength?: number | null;
  glide?: number | null;
  /** Seconds made before they are heard; a session keeps what it was set up with. */
  look_ahead_s?: number | null;
}

export type ToServer =
  | {
      type: "setup";
      prompts: Weighted[];
      seed: number;
      config: LiveConfig;
      format: "s16le";
      session?: string;
      key?: string;
      from_frame?: number;
    }
  | { type: "prompts"; prompts: Weighted[]; glide?: number; seed?: number }
  | ({ type: "config" } & LiveConfig)
  | { type: "play" }
  | { type: "pause" }
  | { type: "ack"; played_frames: number };

export interface Ready {
  type: "ready";
  session: string;
  sample_rate: number;
  channels: number;
  look_ahead_s: number;
  bar_s?: number;
}

export interface Status {
  type: "status";
  state: "playing" | "paused" | "idle";
  steps?: number | null;
  wanted_steps?: number | null;
  times_real_time?: number | null;
  behind_s?: number | null;
  note?: string | null;
}

export interface Steered {
  type: "steered";
  prompts: Weighted[];
  from_frame: number;
}

export interface Failure {
  type: "error";
  code: string;
  message: string;
  hint?: string;
}

export type FromServer = Ready | Status | Steered | Failure;

/** What a block of sound says of itself. */
export interface BlockHeader {
  start_frame: number;
  frames: number;
  clip: number;
  bar: number;
  prompts: Weighted[];
  up_next: Weighted[] | null;
  seed: number;
  alpha: number;
  columns: unknown;
  /** Frame at which the left edge of the clip's picture is heard. */
  picture_frame?: number;
  picture: string | null;
  compute_s: number;
  gain_db: number;
  note: string | null;
}

export interface Block {
  header: BlockHeader;
  /** Interleaved. */
  samples: Int16Array;
}

const LENGTH_BYTES = 4;
const KNOWN = new Set(["ready", "status", "steered", "error"]);

/**
 * @returns null for a message that this page does not know: a newer server may say more.
 * @throws Error if it is no message at all.
 */
export function readMessage(text: string): FromServer | null {
  const message = JSON.parse(text) as { type?: unknown } | null;
  if (typeof message?.type !== "string") throw new Error(`No message: ${text.slice(0, 80)}`);
  return KNOWN.has(message.type) ? (message as FromServer) : null;
}

/**
 * A block's header and its samples: uint32 length, JSON, interleaved signed 16-bit samples, all little-endian.
 *
 * @throws Error if lengths contradict each other.
 */
export function readBlock(bytes: ArrayBuffer, channels: number): Block {
  if (bytes.byteLength < LENGTH_BYTES) throw new Error("A block without a header");
  const length = new DataView(bytes).getUint32(0, true);
  const start = LENGTH_BYTES + length;
  if (start > bytes.byteLength || start % 2) throw new Error("A block's header is longer than the block");
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(bytes, LENGTH_BYTES, length))) as BlockHeader;
  const samples = new Int16Array(bytes, start);
  if (!Number.isInteger(header.start_frame) || header.frames * channels !== samples.length) {
    throw new Error(`A block of ${header.frames} frames brings ${samples.length} samples`);
  }
  return { header, samples };
}

/** Interleaved 16-bit samples as one array a channel in ±1; exact, both ways. */
export function planar(samples: Int16Array, channels: number): Float32Array[] {
  return Array.from({ length: channels }, (_, channel) => {
    const out = new Float32Array(samples.length / channels);
    for (let index = 0; index < out.length; index++) out[index] = samples[index * channels + channel]! / 32768;
    return out;
  });
}
