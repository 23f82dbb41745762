import { describe, expect, test } from "vitest";

import { readMoment, writeMoment } from "../src/link/moment";

describe("a link", () => {
  test("brings its moment back", () => {
    const moment = {
      prompts: [
        { text: "jazz piano & bass", weight: 1.5 },
        { text: "Glocken, größer + lauter", weight: 0.5 },
      ],
      seed: 123456789,
      config: { strength: 0.85, seed_image: "beat-94", guidance: 6.5, steps: 12, glide: 4, negative_prompt: "hum", sampler: "dpm++2m-karras", look_ahead_s: 12 },
    };
    expect(readMoment(writeMoment(moment))).toEqual(moment);
  });

  test("of Riffusion's web app is understood", () => {
    const link =
      "?prompt=church+bells&seed=51209&denoising=0.75&seedImageId=og_beat&maskImageId=none&guidance=7&numInferenceSteps=50&alphaVelocity=0.25";
    expect(readMoment(link)).toEqual({
      prompts: [{ text: "church bells", weight: 1 }],
      seed: 51209,
      config: { strength: 0.75, seed_image: "og_beat", guidance: 7, steps: 50, glide: 4 },
    });
  });

  test("carries no picture of the listener's own, which is too long for it", () => {
    const link = writeMoment({ prompts: [{ text: "a", weight: 1 }], seed: 1, config: { seed_image: "data:image/png;base64,AAAA" } });
    expect(link).not.toContain("data");
  });

  test.each(["", "?seed=-1", "?seed=abc", "?guidance=900&numInferenceSteps=0", "?denoising=NaN&alphaVelocity=7", "?seedImageId=../../etc", "?prompt=%20"])(
    "that says nothing sensible (%s) sets nothing",
    (link) => expect(readMoment(link)).toEqual({}),
  );
});
