/** Interleaved 16-bit samples in, the bytes of a FLAC file out: fixed predictors and Rice codes, no library. */

/** Format: RFC 9639. Frames of the streamable subset's usual length. */
const BLOCK = 4096;
const MAX_ORDER = 4;
const MAX_RICE = 14;
const BITS = 16;

class BitWriter {
  private bytes: Uint8Array;
  private length = 0;
  private pending = 0;
  private bits = 0;

  constructor(room: number) {
    this.bytes = new Uint8Array(room);
  }

  /** Up to 24 bits, high bit first. */
  write(value: number, count: number): void {
    this.pending = (this.pending << count) | (value & ((1 << count) - 1));
    this.bits += count;
    while (this.bits >= 8) {
      this.bits -= 8;
      this.byte((this.pending >>> this.bits) & 0xff);
    }
    this.pending &= (1 << this.bits) - 1;
  }

  unary(zeros: number): void {
    for (let left = zeros; left > 0; left -= 16) this.write(0, Math.min(16, left));
    this.write(1, 1);
  }

  align(): void {
    if (this.bits) this.write(0, 8 - this.bits);
  }

  get view(): Uint8Array<ArrayBuffer> {
    return this.bytes.slice(0, this.length) as Uint8Array<ArrayBuffer>;
  }

  private byte(value: number): void {
    if (this.length === this.bytes.length) {
      const wider = new Uint8Array(this.bytes.length * 2);
      wider.set(this.bytes);
      this.bytes = wider;
    }
    this.bytes[this.length++] = value;
  }
}

/** @param pieces interleaved samples, one after another. */
export function flacFile(pieces: readonly Int16Array[], channels: number, rate: number): Blob {
  const samples = joined(pieces);
  const frames = samples.length / channels;
  const parts: BlobPart[] = [streamInfo(frames, channels, rate)];
  for (let start = 0, number = 0; start < frames; start += BLOCK, number++) {
    parts.push(frame(samples, start, Math.min(BLOCK, frames - start), channels, number));
  }
  return new Blob(parts, { type: "audio/flac" });
}

function streamInfo(frames: number, channels: number, rate: number): Uint8Array<ArrayBuffer> {
  const out = new BitWriter(42);
  for (const sign of "fLaC") out.write(sign.charCodeAt(0), 8);
  out.write(0x80, 8); // last block of metadata, of type 0
  out.write(34, 24);
  out.write(BLOCK, 16);
  out.write(BLOCK, 16);
  out.write(0, 24); // sizes of frames and the checksum are not known
  out.write(0, 24);
  out.write(rate, 20);
  out.write(channels - 1, 3);
  out.write(BITS - 1, 5);
  out.write(Math.floor(frames / 2 ** 24) & 0xfff, 12);
  out.write(frames % 2 ** 24, 24);
  for (let index = 0; index < 16; index++) out.write(0, 8);
  return out.view;
}

function frame(samples: Int16Array, start: number, count: number, channels: number, number: number): Uint8Array<ArrayBuffer> {
  const head = new BitWriter(16);
  head.write(0xfff8, 16); // sync, blocks of fixed length
  head.write(0b0111_0000, 8); // length in 16 bits below; rate as in the head of the file
  head.write(((channels - 1) << 4) | 0b1000, 8); // channels on their own, 16 bits
  for (const byte of utf8Number(number)) head.write(byte, 8);
  head.write(count - 1, 16);
  const header = head.view;

  const out = new BitWriter(count * channels * 2 + 64);
  for (const byte of header) out.write(byte, 8);
  out.write(crc8(header), 8);
  for (let channel = 0; channel < channels; channel++) {
    const line = new Int32Array(count);
    for (let index = 0; index < count; index++) line[index] = samples[(start + index) * channels + channel]!;
    subframe(out, line);
  }
  out.align();
  const body = out.view;
  const check = crc16(body);
  const whole = new Uint8Array(body.length + 2);
  whole.set(body);
  whole.set([check >> 8, check & 0xff], body.length);
  return whole;
}

function subframe(out: BitWriter, line: Int32Array): void {
  let best = line;
  let order = 0;
  let least = weight(line, 0);
  let residual = line;
  for (let next = 1; next <= Math.min(MAX_ORDER, line.length - 1); next++) {
    residual = differences(residual, next);
    const size = weight(residual, next);
    if (size < least) [best, order, least] = [residual, next, size];
  }
  out.write(0b0_001_000_0 | (order << 1), 8); // fixed predictor of that order, no wasted bits
  for (let index = 0; index < order; index++) out.write(line[index]!, BITS);
  const rice = Math.min(MAX_RICE, Math.max(0, Math.round(Math.log2((least / Math.max(1, line.length - order)) * 1.4 + 1e-9))));
  out.write(0, 2); // Rice codes of 4-bit parameters
  out.write(0, 4); // one partition
  out.write(rice, 4);
  for (let index = order; index < best.length; index++) {
    const value = best[index]!;
    const folded = value >= 0 ? 2 * value : -2 * value - 1;
    out.unary(Math.floor(folded / 2 ** rice));
    if (rice) out.write(folded, rice);
  }
}

/** The next order's residual: each order predicts the one before it by its last value. */
function differences(line: Int32Array, order: number): Int32Array {
  const out = new Int32Array(line.length);
  for (let index = order; index < line.length; index++) out[index] = line[index]! - line[index - 1]!;
  return out;
}

function weight(line: Int32Array, from: number): number {
  let sum = 0;
  for (let index = from; index < line.length; index++) sum += Math.abs(line[index]!);
  return sum;
}

function joined(pieces: readonly Int16Array[]): Int16Array {
  const out = new Int16Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    out.set(piece, at);
    at += piece.length;
  }
  return out;
}

function utf8Number(value: number): number[] {
  if (value < 0x80) return [value];
  const tail: number[] = [];
  let rest = value;
  let room = 0x3f;
  while (rest > room) {
    tail.unshift(0x80 | (rest & 0x3f));
    rest = Math.floor(rest / 64);
    room >>= 1;
  }
  return [((0xff ^ (room * 2 + 1)) & 0xff) | rest, ...tail];
}

function crc8(bytes: Uint8Array): number {
  let sum = 0;
  for (const byte of bytes) {
    sum ^= byte;
    for (let bit = 0; bit < 8; bit++) sum = sum & 0x80 ? ((sum << 1) ^ 0x07) & 0xff : (sum << 1) & 0xff;
  }
  return sum;
}

function crc16(bytes: Uint8Array): number {
  let sum = 0;
  for (const byte of bytes) {
    sum ^= byte << 8;
    for (let bit = 0; bit < 8; bit++) sum = sum & 0x8000 ? ((sum << 1) ^ 0x8005) & 0xffff : (sum << 1) & 0xffff;
  }
  return sum;
}
