/** Blocks in, clips out: what was heard, what will be, and the sound of the last minutes. */

import type { Block, BlockHeader, Weighted } from "./protocol";

/** Clips whose sound and picture are kept: seven minutes, 40 MB. */
export const KEPT_CLIPS = 84;

export interface Clip {
  id: number;
  /** Frame at which its sound begins, and how many it has so far. */
  start: number;
  frames: number;
  /** Frame at which the left edge of its picture is heard. */
  pictureStart: number;
  picture: string | null;
  prompts: Weighted[];
  seed: number;
  alpha: number;
  computeS: number;
  note: string;
}

interface Piece {
  clip: number;
  header: BlockHeader;
  samples: Int16Array;
}

export class Timeline {
  private readonly pieces: Piece[] = [];
  private readonly byId = new Map<number, Clip>();
  private ids = 0;
  private lastServerClip: number | null = null;

  constructor(readonly channels: number) {}

  /** All clips that are kept, oldest first. */
  get clips(): Clip[] {
    return [...this.byId.values()];
  }

  /** Number of the frame after the last one that came. */
  get end(): number {
    const last = this.pieces.at(-1)?.header;
    return last ? last.start_frame + last.frames : 0;
  }

  /** @returns the clip that the block begins or goes on with. */
  add({ header, samples }: Block): Clip {
    const known = this.lastServerClip === header.clip ? this.byId.get(this.ids) : undefined;
    const clip = known ?? this.begin(header);
    clip.frames = header.start_frame + header.frames - clip.start;
    if (known) clip.computeS += header.compute_s ?? 0;
    clip.picture = header.picture ?? clip.picture;
    this.pieces.push({ clip: clip.id, header, samples });
    this.forget();
    return clip;
  }

  /** Blocks that have begun at the frame, oldest first. */
  heard(frame: number): BlockHeader[] {
    return this.pieces.filter((piece) => piece.header.start_frame <= frame).map((piece) => piece.header);
  }

  /** The block that sounds at the frame, or the first one before any has begun. */
  at(frame: number): BlockHeader | null {
    const index = this.pieces.findLastIndex((piece) => piece.header.start_frame <= frame);
    return (this.pieces[index] ?? this.pieces[0])?.header ?? null;
  }

  /** Samples of a clip. */
  soundOf(id: number): Int16Array[] {
    return this.pieces.filter((piece) => piece.clip === id).map((piece) => piece.samples);
  }

  /** Blocks that sound at the frame or later. */
  blocksFrom(frame: number): Block[] {
    return this.pieces.filter(({ header }) => header.start_frame + header.frames > frame);
  }

  /** The clip that sounds at the frame, or the one before it. */
  clipAt(frame: number): Clip | undefined {
    return this.clips.findLast((clip) => clip.start <= frame);
  }

  /** A new session has begun, which counts its clips from 0 again. */
  begun(): void {
    this.lastServerClip = null;
  }

  private begin(header: BlockHeader): Clip {
    this.lastServerClip = header.clip;
    this.ids += 1;
    const clip: Clip = {
      id: this.ids,
      start: header.start_frame,
      frames: 0,
      pictureStart: header.picture_frame ?? header.start_frame,
      picture: null,
      prompts: header.prompts,
      seed: header.seed,
      alpha: header.alpha,
      computeS: header.compute_s ?? 0,
      note: header.note ?? "",
    };
    this.byId.set(clip.id, clip);
    return clip;
  }

  private forget(): void {
    while (this.byId.size > KEPT_CLIPS) {
      const oldest = this.byId.keys().next().value!;
      this.byId.delete(oldest);
      while (this.pieces[0]?.clip === oldest) this.pieces.shift();
    }
  }
}
