/** What the stage asks of a picture of the music, be it in relief or flat. */

import type { Ramp } from "./palette";

/** A clip as it lies on the timeline. */
export interface ClipPicture {
  id: number;
  /** Frame at which its left edge is heard, and its length. */
  start: number;
  frames: number;
  picture: ImageBitmap;
  ramp: Ramp;
}

export interface TimelineView {
  setClips(clips: readonly ClipPicture[]): void;
  resize(width: number, height: number, pixelRatio: number): void;
  /** Draw the moment at which `frame` is heard. @returns false when it is too slow for this machine. */
  draw(frame: number, nowMs: number): boolean;
  dispose(): void;
}

/** Pictures by their address: fetched once, forgotten with their clip. */
export class Pictures {
  private readonly known = new Map<string, ImageBitmap | null>();

  constructor(private readonly arrived: () => void) {}

  /** The picture, if it is here; else it is fetched. */
  get(url: string): ImageBitmap | null {
    const known = this.known.get(url);
    if (known !== undefined) return known;
    this.known.set(url, null);
    void this.fetch(url);
    return null;
  }

  keepOnly(urls: ReadonlySet<string>): void {
    for (const [url, picture] of this.known) {
      if (urls.has(url)) continue;
      picture?.close();
      this.known.delete(url);
    }
  }

  private async fetch(url: string): Promise<void> {
    try {
      const answer = await fetch(url);
      if (!answer.ok) return;
      const picture = await createImageBitmap(await answer.blob());
      if (this.known.has(url)) this.known.set(url, picture);
      this.arrived();
    } catch {
      // The music goes on without its picture.
    }
  }
}
