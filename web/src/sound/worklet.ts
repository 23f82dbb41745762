/** Messages with samples in, the loudspeaker's samples out: runs on the audio thread. */

import { Playout } from "./playout";
import { Ring } from "./ring";

declare const sampleRate: number;
declare const currentFrame: number;
declare class AudioWorkletProcessor {
  readonly port: MessagePort;
}
declare function registerProcessor(name: string, processor: unknown): void;

/** Quanta between two reports: about 23 ms. */
const REPORT_QUANTA = 8;

export type ToWorklet =
  | { type: "samples"; start: number; samples: Float32Array[] }
  | { type: "play" }
  | { type: "pause" };

class Live extends AudioWorkletProcessor {
  private readonly ring: Ring;
  private readonly playout: Playout;
  private quanta = 0;

  constructor(options: { processorOptions: { channels: number; capacityS: number } }) {
    super();
    const { channels, capacityS } = options.processorOptions;
    this.ring = new Ring(channels, Math.round(capacityS * sampleRate));
    this.playout = new Playout(this.ring, channels, sampleRate);
    this.port.onmessage = (event: MessageEvent<ToWorklet>) => this.take(event.data);
  }

  private take(message: ToWorklet): void {
    if (message.type === "samples") this.ring.write(message.start, message.samples);
    else if (message.type === "play") this.playout.play();
    else this.playout.pause();
  }

  process(_inputs: Float32Array[][], outputs: Float32Array[][]): boolean {
    const out = outputs[0]!;
    this.playout.render(out);
    if (this.quanta++ % REPORT_QUANTA === 0) {
      this.port.postMessage({ ...this.playout.report(), at: currentFrame + (out[0]?.length ?? 0) });
    }
    return true;
  }
}

registerProcessor("riffusion-live", Live);
