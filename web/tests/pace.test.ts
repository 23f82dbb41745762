import { expect, test } from "vitest";

import { judgePace, timesText, type PaceFacts } from "../src/live/pace";
import { DARINGS, daringOf } from "../src/link/wording";
import { rollPrompt } from "../src/link/dice";
import { rampName, rampOf } from "../src/view/palette";

const WELL: PaceFacts = { status: null, bufferedS: 5, lookAheadS: 7.68, playing: true, heardS: 60, sinceUnderrunS: Infinity, connected: true };

test("the banner appears when the server is late, when little lies ready, and after a stumble", () => {
  const late = { type: "status" as const, state: "playing" as const, behind_s: 0.4, times_real_time: 0.7 };
  expect(judgePace(WELL).behind).toBe(false);
  expect(judgePace({ ...WELL, status: late })).toMatchObject({ behind: true, text: expect.stringContaining("0.70 s") });
  expect(judgePace({ ...WELL, bufferedS: 0.2 }).behind).toBe(true);
  expect(judgePace({ ...WELL, sinceUnderrunS: 1 }).behind).toBe(true);
});

test("the banner does not blame a machine that is fast", () => {
  const fast = { type: "status" as const, state: "playing" as const, behind_s: 0, times_real_time: 5 };
  const pace = judgePace({ ...WELL, status: fast, bufferedS: 0.1 });
  expect(pace).toMatchObject({ behind: true, byWork: false, text: expect.stringContaining("browser") });
});

test("the banner does not appear for the first bar, in a pause, or for a dropped line", () => {
  expect(judgePace({ ...WELL, bufferedS: 0.1, heardS: 1 }).behind).toBe(false);
  expect(judgePace({ ...WELL, bufferedS: 0, playing: false }).behind).toBe(false);
  expect(judgePace({ ...WELL, bufferedS: 0, connected: false }).behind).toBe(false);
});

test("the meter's reading is short", () => {
  expect([3.14159, 12.7, 0, null, NaN].map(timesText)).toEqual(["3.1×", "13×", "–", "–", "–"]);
});

test("every strength has words, and every word its strength", () => {
  for (const { value, words } of DARINGS) expect(daringOf(value).words).toBe(words);
  expect(daringOf(0).value).toBe(0.75);
});

test("the dice give prompts, for every face", () => {
  for (let face = 0; face < 1; face += 0.01) expect(rollPrompt(() => face)).toMatch(/^[a-z ]{4,60}$/);
});

test("a prompt has its colours, and a mixture the colours between", () => {
  expect(rampName("Jazz piano ")).toBe(rampName("jazz piano"));
  const [a, b] = ["piano", "bells", "flute", "organ"].filter((text, _, all) => text === all[0] || rampName(text) !== rampName(all[0]!));
  const middle = rampOf([{ text: a!, weight: 1 }, { text: b!, weight: 1 }])[2]!;
  const ends = [rampOf([{ text: a!, weight: 1 }])[2]!, rampOf([{ text: b!, weight: 3 }])[2]!];
  expect(middle[0]).toBeCloseTo((ends[0]![0] + ends[1]![0]) / 2);
});
