/** Interleaved 16-bit samples in, the bytes of a WAV file out. */

const HEADER_BYTES = 44;

/** @param pieces interleaved samples, one after another. */
export function wavFile(pieces: readonly Int16Array[], channels: number, rate: number): Blob {
  const size = pieces.reduce((sum, piece) => sum + piece.byteLength, 0);
  const header = new DataView(new ArrayBuffer(HEADER_BYTES));
  const tag = (at: number, text: string) => [...text].forEach((sign, index) => header.setUint8(at + index, sign.charCodeAt(0)));
  tag(0, "RIFF");
  header.setUint32(4, HEADER_BYTES - 8 + size, true);
  tag(8, "WAVEfmt ");
  header.setUint32(16, 16, true);
  header.setUint16(20, 1, true);
  header.setUint16(22, channels, true);
  header.setUint32(24, rate, true);
  header.setUint32(28, rate * channels * 2, true);
  header.setUint16(32, channels * 2, true);
  header.setUint16(34, 16, true);
  tag(36, "data");
  header.setUint32(40, size, true);
  return new Blob([header.buffer, ...(pieces as readonly BlobPart[])], { type: "audio/wav" });
}
