import { describe, expect, test } from "vitest";

import { FADED, walkLines, type Played } from "../src/live/walk";

const block = (prompts: Record<string, number>): Played => ({
  start_frame: 0,
  prompts: Object.entries(prompts).map(([text, weight]) => ({ text, weight })),
});
const only = (text: string) => [{ text, weight: 1 }];

describe("the prompt stack", () => {
  test("shows what was asked for as up next, until it is heard", () => {
    const before = walkLines([block({ piano: 1 })], only("bells"));
    expect(before.map((line) => [line.text, line.tense])).toEqual([["piano", "now"], ["bells", "next"]]);
    const after = walkLines([block({ piano: 1 }), block({ piano: 0.75, bells: 0.25 })], only("bells"));
    expect(after.map((line) => line.tense)).toEqual(["now", "now"]);
  });

  test("lets size and opacity follow the walk, step by step", () => {
    const steps = [0.25, 0.5, 0.75, 1].map((share) => {
      const lines = walkLines([block({ piano: 1 - share, bells: share })], only("bells"));
      return lines.find((line) => line.text === "bells")!;
    });
    for (const [index, step] of steps.slice(1).entries()) {
      expect(step.size).toBeGreaterThan(steps[index]!.size);
      expect(step.opacity).toBeGreaterThan(steps[index]!.opacity);
    }
    expect(steps.at(-1)).toMatchObject({ size: 1, opacity: 1 });
  });

  test("lets prompts sink into the past, the latest nearest, each once", () => {
    const heard = ["a", "b", "c", "b", "d", "e"].map((text) => block({ [text]: 1 }));
    const lines = walkLines(heard, only("e"));
    expect(lines.map((line) => `${line.tense} ${line.text}`)).toEqual(["past c", "past b", "past d", "now e"]);
    const sizes = lines.map((line) => line.size);
    expect([...sizes].sort((a, b) => a - b)).toEqual(sizes);
  });

  test("keeps the faintest line readable", () => {
    const heard = ["a", "b", "c", "d"].map((text) => block({ [text]: 1 }));
    expect(Math.min(...walkLines(heard, only("z")).map((line) => line.opacity))).toBeGreaterThanOrEqual(FADED);
  });
});
