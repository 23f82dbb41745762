/** Blocks as they come in, and the frames at which somebody presses record and stop; exactly what was heard between out. */

interface Piece {
  start: number;
  samples: Int16Array;
}

export interface Recording {
  pieces: Int16Array[];
  frames: number;
}

export class Recorder {
  private readonly pieces: Piece[] = [];

  /** @param from frame heard when record was pressed. */
  constructor(
    readonly from: number,
    private readonly channels: number,
  ) {}

  add(start: number, samples: Int16Array): void {
    this.pieces.push({ start, samples });
  }

  /** @param to frame heard when stop was pressed. */
  cut(to: number): Recording {
    const pieces = this.pieces.flatMap(({ start, samples }) => {
      const frames = samples.length / this.channels;
      const first = Math.max(0, this.from - start);
      const end = Math.min(frames, to - start);
      return first < end ? [samples.subarray(first * this.channels, end * this.channels)] : [];
    });
    return { pieces, frames: pieces.reduce((sum, piece) => sum + piece.length / this.channels, 0) };
  }
}
