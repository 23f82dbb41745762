import { describe, expect, test } from "vitest";

import { planar, readBlock, readMessage } from "../src/live/protocol";

function block(header: object, samples: number[]): ArrayBuffer {
  let text = JSON.stringify(header);
  text += " ".repeat((4 - (text.length % 4)) % 4);
  const bytes = new Uint8Array(4 + text.length + 2 * samples.length);
  new DataView(bytes.buffer).setUint32(0, text.length, true);
  bytes.set(new TextEncoder().encode(text), 4);
  new Int16Array(bytes.buffer, 4 + text.length).set(samples);
  return bytes.buffer;
}

describe("a block", () => {
  test("is its header and its samples", () => {
    const { header, samples } = readBlock(block({ start_frame: 7, frames: 2, clip: 1 }, [1, -2, 3, -4]), 2);
    expect(header).toMatchObject({ start_frame: 7, frames: 2, clip: 1 });
    expect([...samples]).toEqual([1, -2, 3, -4]);
  });

  test.each([
    ["is empty", new ArrayBuffer(0)],
    ["ends within its header", block({ start_frame: 0, frames: 0 }, []).slice(0, 9)],
    ["brings another number of samples than it says", block({ start_frame: 0, frames: 3 }, [1, 2])],
    ["does not say where it starts", block({ frames: 1 }, [1])],
  ])("is refused when it %s", (_, bytes) => {
    expect(() => readBlock(bytes, 1)).toThrow();
  });

  test("becomes one exact array a channel", () => {
    const [left, right] = planar(Int16Array.of(-32768, 32767, 1, 0), 2);
    expect([...left!]).toEqual([-1, 1 / 32768]);
    expect([...right!]).toEqual([32767 / 32768, 0]);
  });
});

test("messages are known, left aside or refused", () => {
  expect(readMessage('{"type":"ready","session":"a"}')).toMatchObject({ session: "a" });
  expect(readMessage('{"type":"something newer"}')).toBeNull();
  expect(() => readMessage("[]")).toThrow();
});
