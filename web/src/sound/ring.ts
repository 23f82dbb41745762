/** Blocks of samples at absolute frames in, the same samples in order out: the buffer between network and ear. */

/**
 * A ring of Float32 frames, addressed by the frame's number in the session, so that a block that comes twice (after a
 * reconnection) is heard once, and one that never came is known to be missing.
 */
export class Ring {
  private readonly data: Float32Array[];
  private first: number;
  private end: number;
  private lost = 0;

  /** @param capacity frames; @param start number of the first frame that will be read. */
  constructor(
    channels: number,
    private readonly capacity: number,
    start = 0,
  ) {
    this.data = Array.from({ length: channels }, () => new Float32Array(capacity));
    this.first = start;
    this.end = start;
  }

  /** Number of the next frame to be read. */
  get position(): number {
    return this.first;
  }

  /** Frames that wait. */
  get buffered(): number {
    return this.end - this.first;
  }

  /** Frames that never came, and were silent. */
  get missing(): number {
    return this.lost;
  }

  /**
   * Append frames; those that are already here are skipped, a hole before them becomes silence.
   *
   * @returns frames taken: fewer than given when the ring is full or they were known.
   */
  write(start: number, samples: readonly Float32Array[]): number {
    const length = samples[0]?.length ?? 0;
    const hole = start - this.end;
    if (hole > 0 && hole <= this.capacity - this.buffered) {
      if (this.end !== this.first || this.first !== 0) this.lost += hole;
      this.put(hole, () => null, 0);
    }
    const skipped = Math.max(0, this.end - start);
    const taken = Math.min(length - skipped, this.capacity - this.buffered);
    if (taken <= 0 || start > this.end) return 0;
    this.put(taken, (channel) => samples[channel] ?? samples[0] ?? null, skipped);
    return taken;
  }

  /** Fill the beginning of `out` with up to `frames` frames; @returns how many there were. */
  read(out: readonly Float32Array[], frames: number): number {
    const count = Math.min(frames, this.buffered);
    const from = this.first % this.capacity;
    const straight = Math.min(count, this.capacity - from);
    out.forEach((to, channel) => {
      const ring = this.data[Math.min(channel, this.data.length - 1)]!;
      to.set(ring.subarray(from, from + straight), 0);
      if (straight < count) to.set(ring.subarray(0, count - straight), straight);
    });
    this.first += count;
    return count;
  }

  private put(count: number, source: (channel: number) => Float32Array | null, offset: number): void {
    const from = this.end % this.capacity;
    const straight = Math.min(count, this.capacity - from);
    this.data.forEach((ring, channel) => {
      const samples = source(channel);
      if (samples === null) {
        ring.fill(0, from, from + straight);
        ring.fill(0, 0, count - straight);
        return;
      }
      ring.set(samples.subarray(offset, offset + straight), from);
      ring.set(samples.subarray(offset + straight, offset + count), 0);
    });
    this.end += count;
  }
}
