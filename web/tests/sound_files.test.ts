import { describe, expect, test } from "vitest";

import { Recorder } from "../src/sound/recorder";
import { flacFile } from "../src/sound/flac";
import { wavFile } from "../src/sound/wav";

const noise = (length: number) => Int16Array.from({ length }, (_, index) => 9000 * Math.sin(index / 7) + 300 * Math.sin(index * index));

describe("a recording", () => {
  test("is cut to the frames that were heard between record and stop", () => {
    const samples = noise(200);
    const recorder = new Recorder(15, 2);
    recorder.add(10, samples.subarray(0, 100));
    recorder.add(60, samples.subarray(100, 200));
    const { pieces, frames } = recorder.cut(77);
    expect(frames).toBe(62);
    expect(pieces.flatMap((piece) => [...piece])).toEqual([...samples.subarray(10, 134)]);
  });
});

describe("files", () => {
  test("a WAV file says its length and holds its samples", async () => {
    const samples = noise(1000);
    const bytes = await wavFile([samples.subarray(0, 300), samples.subarray(300)], 2, 44100).arrayBuffer();
    const view = new DataView(bytes);
    expect([view.getUint32(4, true), view.getUint32(24, true), view.getUint16(22, true), view.getUint32(40, true)]).toEqual([2036, 44100, 2, 2000]);
    expect([...new Int16Array(bytes, 44)]).toEqual([...samples]);
  });

  test("a FLAC file is smaller than its samples, and states their number", async () => {
    const samples = Int16Array.from({ length: 20_000 }, (_, index) => 8000 * Math.sin(index / 50));
    const bytes = new Uint8Array(await flacFile([samples], 1, 44100).arrayBuffer());
    expect(String.fromCharCode(...bytes.subarray(0, 4))).toBe("fLaC");
    expect(new DataView(bytes.buffer).getUint32(22)).toBe(20_000);
    expect(bytes.length).toBeLessThan(samples.byteLength / 2);
  });
});
