/** An address in, messages and blocks out, in order and each once, though the line may drop. */

import { readBlock, readMessage, type Block, type Failure, type FromServer, type Ready, type ToServer } from "./protocol";

/** Seconds before each attempt to come back; the last is repeated. */
export const PATIENCE_S = [0.3, 1, 2, 4, 8];

/** The server sends no more than its look-ahead past the newest acknowledgement. */
export const ACK_EVERY_MS = 400;

/** Close codes after which the page does not try again by itself: refused. */
const REFUSED = 1008;

export interface Listener {
  /** The line is up; `fresh` says that the session is a new one, whose frames count from `base`. */
  ready(ready: Ready, fresh: boolean): void;
  message(message: FromServer): void;
  block(block: Block): void;
  /** The line dropped; it is tried again. */
  dropped(attempt: number): void;
  /** It is over. */
  refused(failure: Failure): void;
}

/** What a session is set up with, asked anew at each attempt. */
export type Setup = () => Extract<ToServer, { type: "setup" }>;

export class Connection {
  private socket: WebSocket | null = null;
  private session: string | null = null;
  private channels = 1;
  private attempt = 0;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private closed = false;
  private reason: Failure | null = null;
  /** Frames of the page before the present session's frame 0. */
  private base = 0;
  /** The first frame that the page lacks. */
  private next = 0;

  constructor(
    private readonly url: string,
    private readonly setup: Setup,
    private readonly listener: Listener,
    private readonly open: (url: string) => WebSocket = (address) => new WebSocket(address),
  ) {
    this.connect();
  }

  /** Send, if the line is up; settings are sent anew with every setup. @returns whether it was. */
  send(message: ToServer): boolean {
    if (this.socket?.readyState !== 1 || this.session === null) return false;
    this.socket.send(JSON.stringify(message));
    return true;
  }

  /** Tell how far the music was heard, in the page's frames. */
  ack(played: number): void {
    this.send({ type: "ack", played_frames: Math.max(0, Math.floor(played) - this.base) });
  }

  /** Try at once, if it waits: the network is back. */
  hurry(): void {
    if (this.timer === undefined) return;
    clearTimeout(this.timer);
    this.connect();
  }

  close(): void {
    this.closed = true;
    clearTimeout(this.timer);
    this.socket?.close(1000);
  }

  private connect(): void {
    this.timer = undefined;
    this.reason = null;
    const socket = this.open(this.url);
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    socket.onopen = () => {
      const known = this.session === null ? {} : { session: this.session, from_frame: this.next - this.base };
      socket.send(JSON.stringify({ ...this.setup(), ...known }));
    };
    socket.onmessage = (event: MessageEvent<string | ArrayBuffer>) => {
      if (this.socket === socket) this.take(event.data);
    };
    socket.onclose = (event) => {
      if (this.socket === socket && !this.closed) this.lost(event.code);
    };
  }

  private take(data: string | ArrayBuffer): void {
    try {
      if (typeof data === "string") this.takeMessage(readMessage(data));
      else this.takeBlock(readBlock(data, this.channels));
    } catch (error) {
      this.listener.message({ type: "error", code: "unreadable", message: (error as Error).message });
    }
  }

  private takeMessage(message: FromServer | null): void {
    if (message === null) return;
    if (message.type === "ready") {
      const fresh = message.session !== this.session;
      if (fresh) this.base = this.next;
      this.session = message.session;
      this.channels = message.channels;
      this.attempt = 0;
      this.listener.ready(message, fresh);
      return;
    }
    if (message.type === "error") this.reason = message;
    if (message.type === "steered") this.listener.message({ ...message, from_frame: message.from_frame + this.base });
    else this.listener.message(message);
  }

  private takeBlock({ header, samples }: Block): void {
    const start = header.start_frame + this.base;
    const picture = header.picture_frame === undefined ? undefined : header.picture_frame + this.base;
    if (start + header.frames <= this.next) return;
    this.next = start + header.frames;
    this.listener.block({
      header: { ...header, start_frame: start, ...(picture === undefined ? {} : { picture_frame: picture }) },
      samples,
    });
  }

  private lost(code: number): void {
    this.socket = null;
    if (code === REFUSED) {
      const message = "The server refused the session";
      this.listener.refused(this.reason ?? { type: "error", code: "refused", message });
      return;
    }
    const wait = PATIENCE_S[Math.min(this.attempt, PATIENCE_S.length - 1)]!;
    this.attempt += 1;
    this.listener.dropped(this.attempt);
    this.timer = setTimeout(() => this.connect(), wait * 1000);
  }
}
