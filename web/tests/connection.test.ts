import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";

import { Connection, PATIENCE_S, type Listener } from "../src/live/connection";

class Line {
  readyState = 1;
  binaryType = "";
  sent: Record<string, unknown>[] = [];
  onopen?: () => void;
  onmessage?: (event: { data: unknown }) => void;
  onclose?: (event: { code: number }) => void;
  send(text: string) {
    this.sent.push(JSON.parse(text));
  }
  close() {
    this.readyState = 3;
  }
  ready(session: string) {
    this.onmessage!({ data: JSON.stringify({ type: "ready", session, channels: 1 }) });
  }
  block(start: number, frames: number) {
    const text = JSON.stringify({ start_frame: start, frames, picture_frame: start }).padEnd(80);
    const bytes = new Uint8Array(84 + 2 * frames);
    new DataView(bytes.buffer).setUint32(0, 80, true);
    bytes.set(new TextEncoder().encode(text), 4);
    this.onmessage!({ data: bytes.buffer });
  }
}

function rig() {
  const lines: Line[] = [];
  const starts: number[] = [];
  const listener: Listener = {
    ready: vi.fn(),
    message: vi.fn(),
    dropped: vi.fn(),
    refused: vi.fn(),
    block: ({ header }) => starts.push(header.start_frame),
  };
  const setup = () => ({ type: "setup" as const, prompts: [], seed: 5, config: {}, format: "s16le" as const });
  const connection = new Connection("ws://here", setup, listener, () => {
    lines.push(new Line());
    return lines.at(-1) as unknown as WebSocket;
  });
  lines[0]!.onopen!();
  return { lines, starts, listener, connection };
}

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

describe("a dropped line", () => {
  test("is taken up again from the first frame that is lacking", () => {
    const { lines, starts } = rig();
    lines[0]!.ready("a");
    lines[0]!.block(0, 10);
    lines[0]!.block(10, 10);
    lines[0]!.onclose!({ code: 1006 });
    vi.advanceTimersByTime(1000 * PATIENCE_S[0]!);
    lines[1]!.onopen!();
    expect(lines[1]!.sent[0]).toMatchObject({ type: "setup", session: "a", from_frame: 20 });
    lines[1]!.ready("a");
    lines[1]!.block(10, 10);
    lines[1]!.block(20, 10);
    expect(starts).toEqual([0, 10, 20]);
  });

  test("goes on in the page's frames when the server has forgotten the session", () => {
    const { lines, starts, connection } = rig();
    lines[0]!.ready("a");
    lines[0]!.block(0, 10);
    lines[0]!.onclose!({ code: 1006 });
    vi.advanceTimersByTime(1000 * PATIENCE_S[0]!);
    lines[1]!.ready("b");
    lines[1]!.block(0, 10);
    connection.ack(14);
    expect(starts).toEqual([0, 10]);
    expect(lines[1]!.sent.at(-1)).toEqual({ type: "ack", played_frames: 4 });
  });

  test("is tried ever more patiently, and at once when the network is back", () => {
    const { lines, listener, connection } = rig();
    for (const wait of [...PATIENCE_S, PATIENCE_S.at(-1)!]) {
      const tried = lines.length;
      lines.at(-1)!.onclose!({ code: 1006 });
      vi.advanceTimersByTime(1000 * wait - 1);
      expect(lines.length).toBe(tried);
      vi.advanceTimersByTime(1);
      expect(lines.length).toBe(tried + 1);
    }
    lines.at(-1)!.onclose!({ code: 1006 });
    const tried = lines.length;
    connection.hurry();
    expect(lines.length).toBe(tried + 1);
    expect(listener.dropped).toHaveBeenLastCalledWith(PATIENCE_S.length + 2);
  });

  test("is not tried again when the server refused", () => {
    const { lines, listener } = rig();
    lines[0]!.onmessage!({ data: JSON.stringify({ type: "error", code: "busy", message: "Too many" }) });
    lines[0]!.onclose!({ code: 1008 });
    vi.advanceTimersByTime(60_000);
    expect(lines.length).toBe(1);
    expect(listener.refused).toHaveBeenCalledWith(expect.objectContaining({ message: "Too many" }));
  });
});

test("nothing is sent before the session stands", () => {
  const { lines, connection } = rig();
  expect(connection.send({ type: "play" })).toBe(false);
  lines[0]!.ready("a");
  expect(connection.send({ type: "play" })).toBe(true);
});
