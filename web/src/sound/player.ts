/** Blocks of samples in, sound out, and the answer to the one question a picture has: which frame is heard now? */

import type { PlayoutReport } from "./playout";
import type { ToWorklet } from "./worklet";
import workletUrl from "./worklet?worker&url";

/** Room for what the server may send ahead, and for what comes again after a reconnection. */
const CAPACITY_S = 90;

interface Report extends PlayoutReport {
  /** The audio thread's frame clock at the report. */
  at: number;
}

const SILENT: Report = { played: 0, buffered: 0, underruns: 0, missing: 0, moving: false, at: 0 };

export class Player {
  private latest: Report = SILENT;
  private heard = 0;

  private constructor(
    readonly context: AudioContext,
    private readonly node: AudioWorkletNode,
    readonly rate: number,
    reported: () => void,
  ) {
    node.port.onmessage = (event: MessageEvent<Report>) => {
      this.latest = this.rested(event.data);
      reported();
    };
  }

  /**
   * Open the sound card at the music's own rate, so that no sample is resampled by us.
   *
   * @param reported called some forty times a second, also in a hidden tab, whose timers sleep.
   */
  static async open(context: AudioContext, channels: number, reported: () => void): Promise<Player> {
    await context.audioWorklet.addModule(workletUrl);
    const node = new AudioWorkletNode(context, "riffusion-live", {
      numberOfInputs: 0,
      outputChannelCount: [channels],
      processorOptions: { channels, capacityS: CAPACITY_S },
    });
    node.connect(context.destination);
    return new Player(context, node, context.sampleRate, reported);
  }

  get report(): PlayoutReport {
    return this.latest;
  }

  push(start: number, samples: Float32Array[]): void {
    this.post(
      { type: "samples", start, samples },
      samples.map((channel) => channel.buffer as ArrayBuffer),
    );
  }

  play(): void {
    void this.context.resume();
    this.post({ type: "play" });
  }

  pause(): void {
    this.post({ type: "pause" });
  }

  /**
   * The session's frame that leaves the loudspeaker at this moment: the audio thread's count at its last report, moved on
   * by the audio clock, less the card's latency. Never goes back.
   */
  heardFrame(): number {
    const { played, buffered, moving, at } = this.latest;
    const now = this.outputTime() * this.rate;
    const passed = moving ? now - at : Math.min(0, now - at);
    const frame = Math.min(played + passed, played + buffered);
    this.heard = Math.max(this.heard, Math.max(0, frame));
    return this.heard;
  }

  close(): void {
    this.node.disconnect();
    void this.context.close();
  }

  /** While nothing moves, the moment that counts is the one at which it came to rest. */
  private rested(report: Report): Report {
    const { latest } = this;
    const still = !report.moving && !latest.moving && report.played === latest.played;
    return still ? { ...report, at: latest.at } : report;
  }

  private outputTime(): number {
    const { currentTime } = this.context;
    const stamp = this.context.getOutputTimestamp?.();
    if (stamp?.contextTime && stamp.performanceTime) {
      const time = stamp.contextTime + (performance.now() - stamp.performanceTime) / 1000;
      if (time <= currentTime && time > currentTime - 1) return time;
    }
    return currentTime - (this.context.outputLatency || this.context.baseLatency || 0);
  }

  private post(message: ToWorklet, transfer: Transferable[] = []): void {
    this.node.port.postMessage(message, transfer);
  }
}
