import { describe, expect, test } from "vitest";

import { FADE_S, Playout, CUSHION_S } from "../src/sound/playout";
import { Ring } from "../src/sound/ring";

const RATE = 8000;
const FADE = Math.round(FADE_S * RATE);
const QUANTUM = 128;
const wave = (from: number, length: number) => Float32Array.from({ length }, (_, index) => 0.8 * Math.cos((from + index) / 9));

function rig() {
  const ring = new Ring(1, 10 * RATE);
  return { ring, playout: new Playout(ring, 1, RATE) };
}

function rendered(playout: Playout, quanta: number): number[] {
  const heard: number[] = [];
  for (let turn = 0; turn < quanta; turn++) {
    const out = new Float32Array(QUANTUM).fill(9);
    playout.render([out]);
    heard.push(...out);
  }
  return heard;
}

const steepest = (samples: readonly number[]) => Math.max(...samples.slice(1).map((value, index) => Math.abs(value - samples[index]!)));

/** The steepest step of the wave itself, and of a fade upon it. */
const SMOOTH = steepest([...wave(0, 1000)]) + 0.8 / FADE;

describe("playout", () => {
  test("passes samples bit for bit once it has faded in", () => {
    const { ring, playout } = rig();
    ring.write(0, [wave(0, 4000)]);
    playout.play();
    expect(rendered(playout, 20).slice(FADE)).toEqual([...wave(0, 20 * QUANTUM)].slice(FADE));
  });

  test("is silent and loses nothing while paused", () => {
    const { ring, playout } = rig();
    ring.write(0, [wave(0, 4000)]);
    playout.play();
    rendered(playout, 3);
    playout.pause();
    rendered(playout, 2);
    const { played } = playout.report();
    expect(rendered(playout, 5).every((value) => value === 0)).toBe(true);
    expect(playout.report()).toMatchObject({ played, moving: false });
    playout.play();
    expect(rendered(playout, 2).slice(FADE)).toEqual([...wave(played, 2 * QUANTUM)].slice(FADE));
  });

  test("makes no step at play, pause and play again", () => {
    const { ring, playout } = rig();
    ring.write(0, [wave(0, 4000)]);
    playout.play();
    const heard = rendered(playout, 4);
    playout.pause();
    heard.push(...rendered(playout, 4));
    playout.play();
    heard.push(...rendered(playout, 4));
    expect(steepest([0, ...heard])).toBeLessThanOrEqual(SMOOTH);
  });

  test("counts a dry ring once, and ends without a click", () => {
    const { ring, playout } = rig();
    ring.write(0, [wave(0, 4000)]);
    playout.play();
    const heard = rendered(playout, 35);
    expect(playout.report()).toMatchObject({ underruns: 1, played: 4000, moving: false });
    expect(steepest([0, ...heard])).toBeLessThanOrEqual(SMOOTH);
    expect(heard.slice(4000 + FADE).every((value) => value === 0)).toBe(true);
  });

  test("waits for enough music after it ran dry, then goes on with the next frame", () => {
    const { ring, playout } = rig();
    ring.write(0, [wave(0, 4000)]);
    playout.play();
    rendered(playout, 35);
    ring.write(4000, [wave(4000, CUSHION_S * RATE - 1)]);
    expect(rendered(playout, 3).every((value) => value === 0)).toBe(true);
    ring.write(4000 + CUSHION_S * RATE - 1, [wave(4000 + CUSHION_S * RATE - 1, 500)]);
    const heard = rendered(playout, 4);
    expect(steepest([0, ...heard])).toBeLessThanOrEqual(SMOOTH);
    expect(heard.slice(FADE)).toEqual([...wave(4000, 4 * QUANTUM)].slice(FADE));
  });
});
