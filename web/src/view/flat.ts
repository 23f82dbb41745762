/** Clips in, a band of spectrograms under a playhead out: for machines without WebGL, and for those who want calm. */

import { colourAt, CORAL, NIGHT, type Ramp } from "./palette";
import type { ClipPicture, TimelineView } from "./view";

/** Where the playhead stands, as a share of the width. */
const PLAYHEAD = 0.62;
const CLIPS_ACROSS = 2.6;
const SHADES = 256;

export class Flat implements TimelineView {
  private readonly context: CanvasRenderingContext2D;
  private readonly painted = new Map<number, HTMLCanvasElement>();
  private clips: readonly ClipPicture[] = [];
  private width = 1;
  private height = 1;

  /** @param still turn pages instead of scrolling: for those who asked their system for less motion. */
  constructor(
    private readonly canvas: HTMLCanvasElement,
    private readonly clipFrames: number,
    private readonly still: boolean,
  ) {
    this.context = canvas.getContext("2d", { alpha: false })!;
  }

  setClips(clips: readonly ClipPicture[]): void {
    this.clips = clips;
    const wanted = new Set(clips.map((clip) => clip.id));
    for (const id of this.painted.keys()) if (!wanted.has(id)) this.painted.delete(id);
    for (const clip of clips) if (!this.painted.has(clip.id)) this.painted.set(clip.id, painted(clip.picture, clip.ramp));
  }

  resize(width: number, height: number, pixelRatio: number): void {
    const ratio = Math.min(pixelRatio, 2);
    this.width = this.canvas.width = Math.round(width * ratio);
    this.height = this.canvas.height = Math.round(height * ratio);
  }

  draw(frame: number): boolean {
    const { context, width, height } = this;
    context.fillStyle = NIGHT;
    context.fillRect(0, 0, width, height);
    const unit = Math.max(width, 500) / CLIPS_ACROSS / this.clipFrames;
    const playhead = this.still ? this.page(frame, unit) : width * PLAYHEAD;
    const top = height * 0.2;
    const tall = height * 0.5;
    for (const clip of this.clips) {
      const x = playhead + (clip.start - frame) * unit;
      const wide = this.clipFrames * unit;
      const picture = this.painted.get(clip.id);
      if (!picture || x > width || x + wide < 0) continue;
      context.drawImage(picture, x, top, wide + 1, tall);
    }
    context.fillStyle = `${NIGHT}99`;
    context.fillRect(playhead, top, width - playhead, tall);
    this.veil(top, tall);
    context.fillStyle = CORAL;
    context.fillRect(Math.round(playhead) - 1, top - height * 0.015, Math.max(2, width / 700), tall + height * 0.03);
    return true;
  }

  dispose(): void {
    this.painted.clear();
  }

  /** The playhead's place when the picture stands still and it walks, a page at a time. */
  private page(frame: number, unit: number): number {
    const pageFrames = this.clipFrames * Math.max(1, Math.floor(this.width / (this.clipFrames * unit)));
    return (frame % pageFrames) * unit;
  }

  private veil(top: number, tall: number): void {
    const fade = this.context.createLinearGradient(0, top, 0, top + tall);
    fade.addColorStop(0, NIGHT);
    fade.addColorStop(0.3, `${NIGHT}00`);
    fade.addColorStop(0.85, `${NIGHT}00`);
    fade.addColorStop(1, NIGHT);
    this.context.fillStyle = fade;
    this.context.fillRect(0, top - 1, this.width, tall + 2);
  }
}

/** A grey picture (dark is loud) in the colours of its music. */
export function painted(picture: ImageBitmap, ramp: Ramp): HTMLCanvasElement {
  const canvas = document.createElement("canvas");
  canvas.width = picture.width;
  canvas.height = picture.height;
  const context = canvas.getContext("2d", { willReadFrequently: true })!;
  context.drawImage(picture, 0, 0);
  const image = context.getImageData(0, 0, picture.width, picture.height);
  const shades = Array.from({ length: SHADES }, (_, grey) => colourAt(ramp, 1 - grey / (SHADES - 1)));
  const { data } = image;
  for (let at = 0; at < data.length; at += 4) {
    const [red, green, blue] = shades[data[at]!]!;
    data[at] = red * 255;
    data[at + 1] = green * 255;
    data[at + 2] = blue * 255;
  }
  context.putImageData(image, 0, 0);
  return canvas;
}
