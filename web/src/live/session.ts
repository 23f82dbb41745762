/** What the listener does in, music and one picture of the state out: the page's model, which knows no React. */

import { rollSeed } from "../link/dice";
import type { Moment } from "../link/moment";
import { Player } from "../sound/player";
import { Recorder, type Recording } from "../sound/recorder";
import { apiKey } from "../server/key";
import type { Schema } from "../server/schema";
import { ACK_EVERY_MS, Connection } from "./connection";
import { judgePace, type Pace } from "./pace";
import { planar, type Block, type Failure, type FromServer, type LiveConfig, type Ready, type Status, type Weighted } from "./protocol";
import { Timeline, type Clip } from "./timeline";
import { walkLines, type WalkLine } from "./walk";

const TICK_MS = 120;

export type Phase = "asleep" | "waking" | "playing" | "paused" | "over";

export interface Snapshot {
  phase: Phase;
  connected: boolean;
  moment: Moment;
  walk: WalkLine[];
  heardS: number;
  heardSeed: number;
  heardClip: number;
  alpha: number;
  bufferedS: number;
  lookAheadS: number;
  underruns: number;
  missing: number;
  status: Status | null;
  pace: Pace;
  clips: Clip[];
  recordingS: number | null;
  failure: Failure | null;
  sessionId: string | null;
  latencyMs: number;
}

export class LiveSession {
  private moment: Moment;
  private phase: Phase = "asleep";
  private connected = false;
  private player: Player | null = null;
  private connection: Connection | null = null;
  private timeline = new Timeline(1);
  private recorder: Recorder | null = null;
  private status: Status | null = null;
  private failure: Failure | null = null;
  private ready: Ready | null = null;
  private underrunAt = -Infinity;
  private underruns = 0;
  private settledFrom = 0;
  private lastAck = 0;
  private readonly watchers = new Set<() => void>();
  private latest: Snapshot;
  private timer: ReturnType<typeof setInterval> | undefined;

  constructor(
    moment: Partial<Moment>,
    private schema: Schema,
  ) {
    this.moment = { prompts: moment.prompts ?? [], seed: moment.seed ?? rollSeed(), config: moment.config ?? {} };
    this.latest = this.read();
  }

  readonly subscribe = (watcher: () => void): (() => void) => {
    this.watchers.add(watcher);
    return () => this.watchers.delete(watcher);
  };

  readonly snapshot = (): Snapshot => this.latest;

  /** Frame that is heard at this moment, for pictures that move with it. */
  readonly heardFrame = (): number => this.player?.heardFrame() ?? 0;

  get clips(): Clip[] {
    return this.timeline.clips;
  }

  get rate(): number {
    return this.player?.rate ?? this.schema.model.sample_rate;
  }

  get channels(): number {
    return this.timeline.channels;
  }

  setSchema(schema: Schema): void {
    this.schema = schema;
    this.tell();
  }

  /** Play, from the beginning or on. Call it from a gesture, or the browser keeps the loudspeaker shut. */
  async play(): Promise<void> {
    if (this.phase === "waking" || this.phase === "playing" || !this.moment.prompts.length) return;
    this.failure = null;
    if (this.player && this.connection && this.phase === "paused") {
      this.phase = "playing";
      this.settledFrom = this.heardFrame();
      this.player.play();
      this.connection.send({ type: "play" });
      this.tell();
      return;
    }
    this.phase = "waking";
    this.tell();
    await this.wake();
  }

  pause(): void {
    if (this.phase !== "playing" && this.phase !== "waking") return;
    this.phase = "paused";
    this.player?.pause();
    this.connection?.send({ type: "pause" });
    this.tell();
  }

  toggle(): void {
    if (this.phase === "playing" || this.phase === "waking") this.pause();
    else void this.play();
  }

  /** Go to other prompts, and to another seed if one is given. */
  steer(prompts: Weighted[], seed?: number): void {
    const wanted = prompts.filter((each) => each.text.trim() !== "");
    if (!wanted.length) return;
    this.moment = { ...this.moment, prompts: wanted, seed: seed ?? this.moment.seed };
    this.connection?.send({ type: "prompts", prompts: wanted.filter((each) => each.weight > 0), ...(seed === undefined ? {} : { seed }) });
    this.tell();
  }

  configure(change: LiveConfig): void {
    this.moment = { ...this.moment, config: { ...this.moment.config, ...change } };
    this.connection?.send({ type: "config", ...change });
    this.tell();
  }

  reseed(seed: number): void {
    this.moment = { ...this.moment, seed };
    this.connection?.send({ type: "prompts", prompts: this.moment.prompts.filter((each) => each.weight > 0), seed });
    this.tell();
  }

  /** What is heard now, as a link would restore it. */
  heardMoment(): Moment {
    const heard = this.timeline.at(this.heardFrame());
    return heard ? { ...this.moment, seed: heard.seed } : this.moment;
  }

  record(): void {
    const from = Math.floor(this.heardFrame());
    this.recorder = new Recorder(from, this.timeline.channels);
    for (const { header, samples } of this.timeline.blocksFrom(from)) this.recorder.add(header.start_frame, samples);
    this.tell();
  }

  /** @returns what was heard since `record`, to the frame. */
  stopRecording(): Recording | null {
    const recording = this.recorder?.cut(Math.floor(this.heardFrame())) ?? null;
    this.recorder = null;
    this.tell();
    return recording;
  }

  soundOf(clip: Clip): Int16Array[] {
    return this.timeline.soundOf(clip.id);
  }

  dismissFailure(): void {
    this.failure = null;
    this.tell();
  }

  /** Sound card and server anew; where the card cannot be opened, the listener is told. */
  private async wake(): Promise<void> {
    try {
      await this.open();
    } catch (error) {
      this.phase = "over";
      this.failure = { type: "error", code: "no_sound", message: `No sound: ${(error as Error).message}` };
    }
    this.tell();
  }

  private async open(): Promise<void> {
    const { sample_rate: rate, channels } = this.schema.model;
    this.connection?.close();
    this.player?.close();
    const context = new AudioContext({ sampleRate: rate, latencyHint: "playback" });
    this.timeline = new Timeline(channels);
    const [player] = await Promise.all([Player.open(context, channels, () => this.acknowledge()), context.resume()]);
    this.player = player;
    const url = `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/api/v1/live`;
    this.connection = new Connection(url, () => this.setup(), {
      ready: (ready, fresh) => this.onReady(ready, fresh),
      message: (message) => this.onMessage(message),
      block: (block) => this.onBlock(block),
      dropped: () => this.onDropped(),
      refused: (failure) => this.onRefused(failure),
    });
    if (this.timer !== undefined) return;
    this.timer = setInterval(() => this.tick(), TICK_MS);
    addEventListener("online", () => this.connection?.hurry());
  }

  private setup() {
    const { prompts, seed, config } = this.moment;
    const heard = this.timeline.clips.at(-1);
    const active = prompts.filter((each) => each.weight > 0);
    const key = apiKey();
    return { type: "setup" as const, prompts: active, seed: heard?.seed ?? seed, config, format: "s16le" as const, ...(key ? { key } : {}) };
  }

  private onReady(ready: Ready, fresh: boolean): void {
    if (ready.sample_rate !== this.rate || ready.channels !== this.timeline.channels) {
      // The schema came too late, or another model runs by now: open the sound card anew for it.
      const { sample_rate, channels } = ready;
      this.schema = { ...this.schema, model: { ...this.schema.model, sample_rate, channels } };
      void this.wake();
      return;
    }
    this.connected = true;
    this.ready = ready;
    if (fresh) this.timeline.begun();
    this.connection?.send({ type: this.phase === "paused" ? "pause" : "play" });
    this.connection?.ack(this.player?.report.played ?? 0);
    this.tell();
  }

  private onMessage(message: FromServer): void {
    if (message.type === "status") this.status = message;
    if (message.type === "status" && message.state === "idle" && this.phase === "playing") this.fallAsleep();
    if (message.type === "error") this.failure = message;
    this.tell();
  }

  private onBlock(block: Block): void {
    const { channels } = this.timeline;
    this.timeline.add(block);
    this.recorder?.add(block.header.start_frame, block.samples);
    this.player?.push(block.header.start_frame, planar(block.samples, channels));
    if (this.phase === "waking") {
      this.phase = "playing";
      this.settledFrom = block.header.start_frame;
      this.player?.play();
    }
    this.tell();
  }

  private onDropped(): void {
    this.connected = false;
    this.tell();
  }

  private onRefused(failure: Failure): void {
    this.connected = false;
    this.failure = failure;
    this.phase = "over";
    this.player?.pause();
    this.tell();
  }

  private fallAsleep(): void {
    this.phase = "paused";
    this.player?.pause();
  }

  private acknowledge(): void {
    const now = performance.now();
    if (this.phase !== "playing" || now - this.lastAck < ACK_EVERY_MS) return;
    this.connection?.ack(this.player?.report.played ?? 0);
    this.lastAck = now;
  }

  private tick(): void {
    const now = performance.now();
    const underruns = this.player?.report.underruns ?? 0;
    if (underruns > this.underruns) {
      this.underruns = underruns;
      this.underrunAt = now;
    }
    this.tell();
  }

  private tell(): void {
    this.latest = this.read();
    for (const watcher of this.watchers) watcher();
  }

  private read(): Snapshot {
    const report = this.player?.report;
    const frame = this.heardFrame();
    const heard = this.timeline.heard(frame);
    const block = heard.at(-1) ?? null;
    const bufferedS = (report?.buffered ?? 0) / this.rate;
    const wanted = this.moment.prompts;
    const pace = judgePace({
      status: this.status,
      bufferedS,
      lookAheadS: this.ready?.look_ahead_s ?? this.schema.live.look_ahead_s,
      playing: this.phase === "playing",
      heardS: (frame - this.settledFrom) / this.rate,
      sinceUnderrunS: (performance.now() - this.underrunAt) / 1000,
      connected: this.connected,
    });
    return {
      phase: this.phase,
      connected: this.connected,
      moment: this.moment,
      walk: walkLines(heard, wanted),
      heardS: frame / this.rate,
      heardSeed: block?.seed ?? this.moment.seed,
      heardClip: this.timeline.clipAt(frame)?.id ?? 0,
      alpha: block?.alpha ?? 0,
      bufferedS,
      lookAheadS: this.ready?.look_ahead_s ?? this.schema.live.look_ahead_s,
      underruns: this.underruns,
      missing: report?.missing ?? 0,
      status: this.status,
      pace,
      clips: this.timeline.clips,
      recordingS: this.recorder ? (frame - this.recorder.from) / this.rate : null,
      failure: this.failure,
      sessionId: this.ready?.session ?? null,
      latencyMs: 1000 * (this.player?.context.outputLatency ?? 0),
    };
  }
}
