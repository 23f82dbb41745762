import { describe, expect, test } from "vitest";

import { Ring } from "../src/sound/ring";

const ramp = (from: number, length: number) => Float32Array.from({ length }, (_, index) => from + index);

function drained(ring: Ring, frames: number): number[] {
  const out = new Float32Array(frames);
  const count = ring.read([out], frames);
  return [...out.subarray(0, count)];
}

describe("the ring", () => {
  test("gives every frame once and in order, however blocks and reads are cut", () => {
    const ring = new Ring(1, 64);
    const heard: number[] = [];
    let written = 0;
    for (let turn = 0; turn < 200; turn++) {
      written += ring.write(written, [ramp(written, 1 + ((turn * 7) % 31))]);
      heard.push(...drained(ring, 1 + ((turn * 5) % 23)));
    }
    heard.push(...drained(ring, 64));
    expect(heard).toEqual([...ramp(0, written)]);
    expect(ring.missing).toBe(0);
  });

  test("takes no more than it holds, and says how much it took", () => {
    const ring = new Ring(1, 10);
    expect(ring.write(0, [ramp(0, 8)])).toBe(8);
    expect(ring.write(8, [ramp(8, 8)])).toBe(2);
    expect(drained(ring, 20)).toEqual([...ramp(0, 10)]);
  });

  test("skips frames that come a second time", () => {
    const ring = new Ring(1, 100);
    ring.write(0, [ramp(0, 20)]);
    expect(ring.write(10, [ramp(10, 20)])).toBe(10);
    expect(ring.write(5, [ramp(5, 10)])).toBe(0);
    expect(drained(ring, 100)).toEqual([...ramp(0, 30)]);
  });

  test("plays silence for frames that never came, and counts them", () => {
    const ring = new Ring(1, 100);
    ring.write(0, [ramp(1, 3)]);
    ring.write(5, [ramp(6, 2)]);
    expect(drained(ring, 100)).toEqual([1, 2, 3, 0, 0, 6, 7]);
    expect(ring.missing).toBe(2);
    expect(ring.position).toBe(7);
  });

  test("keeps channels apart", () => {
    const ring = new Ring(2, 8);
    ring.write(0, [ramp(0, 4), ramp(100, 4)]);
    const out = [new Float32Array(4), new Float32Array(4)];
    ring.read(out, 4);
    expect([...out[1]!]).toEqual([100, 101, 102, 103]);
  });
});
