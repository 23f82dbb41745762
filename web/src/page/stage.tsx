/** The session in, its moving picture out: in relief where the machine can, flat where it cannot or should not. */

import { memo, useEffect, useRef, useState } from "react";

import type { LiveSession } from "../live/session";
import type { Schema } from "../server/schema";
import { Flat } from "../view/flat";
import { rampOf } from "../view/palette";
import { Pictures, type ClipPicture, type TimelineView } from "../view/view";

export type ViewChoice = "auto" | "relief" | "flat";

/** Clips of the past that are drawn. */
const DRAWN_CLIPS = 9;

/** The landscape before any music: copies of a seed image, drifting at this share of real speed. */
const IDLE_CLIPS = 9;
const IDLE_SPEED = 0.12;

interface Props {
  session: LiveSession;
  schema: Schema;
  choice: ViewChoice;
}

export const Stage = memo(function Stage({ session, schema, choice }: Props) {
  const holder = useRef<HTMLDivElement>(null);
  const [verdict, setVerdict] = useState<Verdict | null>(null);
  const calm = useCalm();
  const wanted = choice === "relief";
  const flat = choice === "flat" || verdict === "impossible" || (!wanted && (calm || verdict !== null));
  const kind = flat ? "flat" : "relief";
  const clipFrames = Math.round(schema.model.clip_s * schema.model.sample_rate);
  const idlePicture = schema.seed_images[0]?.url ?? null;

  useEffect(() => {
    const element = holder.current!;
    const stop = run(element, session, { kind, calm, wanted, clipFrames, idlePicture }, setVerdict);
    return stop;
  }, [session, kind, calm, wanted, clipFrames, idlePicture]);

  return <div ref={holder} className="stage fixed inset-0" aria-hidden="true" data-view={kind} />;
});

/** Between two flat pictures, which are for machines that have better to do: every other frame of most screens. */
const FLAT_MS = 24;

/** Of the relief, on this machine. */
type Verdict = "slow" | "impossible";

interface Scene {
  kind: "relief" | "flat";
  calm: boolean;
  /** The relief was asked for, be it slow. */
  wanted: boolean;
  clipFrames: number;
  idlePicture: string | null;
}

/** Draw into the element until the returned function is called. */
function run(element: HTMLElement, session: LiveSession, scene: Scene, judge: (verdict: Verdict) => void): () => void {
  const canvas = document.createElement("canvas");
  element.replaceChildren(canvas);
  let view: TimelineView | null = null;
  let over = false;
  let request = 0;
  let drawn = 0;
  let clipsShown = "";

  const pictures = new Pictures(() => (clipsShown = ""));
  const fit = () => view?.resize(element.clientWidth, element.clientHeight, devicePixelRatio);
  const observer = new ResizeObserver(fit);

  const frame = (now: number) => {
    if (over) return;
    request = requestAnimationFrame(frame);
    if (!view || (scene.kind === "flat" && now - drawn < FLAT_MS)) return;
    drawn = now;
    const clips = session.clips;
    const heard = clips.length ? session.heardFrame() : scene.calm ? 0 : (now / 1000) * IDLE_SPEED * session.rate;
    const wanted = clips.length ? shown(session, heard, scene.clipFrames) : idle(scene, heard);
    const key = wanted.map((each) => `${each.id}:${each.url}`).join();
    if (key !== clipsShown) {
      clipsShown = key;
      pictures.keepOnly(new Set(wanted.map((each) => each.url)));
      view.setClips(wanted.flatMap((each) => withPicture(each, pictures)));
    }
    element.dataset["frame"] = String(Math.round(heard));
    if (!view.draw(heard, now)) judge("slow");
  };

  void open(canvas, scene)
    .then((opened) => {
      if (over) return opened.dispose();
      view = opened;
      fit();
      observer.observe(element);
      request = requestAnimationFrame(frame);
    })
    .catch(() => judge(scene.wanted ? "impossible" : "slow"));

  return () => {
    over = true;
    cancelAnimationFrame(request);
    observer.disconnect();
    pictures.keepOnly(new Set());
    view?.dispose();
    canvas.remove();
  };
}

async function open(canvas: HTMLCanvasElement, { kind, calm, clipFrames, wanted }: Scene): Promise<TimelineView> {
  if (kind === "flat") return new Flat(canvas, clipFrames, calm);
  const { Relief } = await import("../view/relief");
  return new Relief(canvas, clipFrames, wanted);
}

interface Wanted extends Omit<ClipPicture, "picture"> {
  url: string;
}

function shown(session: LiveSession, heard: number, clipFrames: number): Wanted[] {
  return session.clips
    .filter((clip) => clip.picture !== null && clip.pictureStart > heard - DRAWN_CLIPS * clipFrames)
    .map((clip) => ({
      id: clip.id,
      start: clip.pictureStart,
      frames: clipFrames,
      url: clip.picture!,
      ramp: rampOf(clip.prompts),
    }));
}

function idle({ idlePicture, clipFrames }: Scene, heard: number): Wanted[] {
  if (!idlePicture) return [];
  const newest = Math.ceil(heard / clipFrames);
  return Array.from({ length: IDLE_CLIPS }, (_, index) => {
    const number = newest - IDLE_CLIPS + 1 + index;
    // Below zero: the session's clips count from 1.
    return { id: -1 - (number + IDLE_CLIPS), start: number * clipFrames, frames: clipFrames, url: idlePicture, ramp: rampOf([]) };
  });
}

function withPicture({ url, ...clip }: Wanted, pictures: Pictures): ClipPicture[] {
  const picture = pictures.get(url);
  return picture ? [{ ...clip, picture }] : [];
}

/** Whether the system asks for less motion. */
function useCalm(): boolean {
  const [calm, setCalm] = useState(() => matchMedia("(prefers-reduced-motion: reduce)").matches);
  useEffect(() => {
    const query = matchMedia("(prefers-reduced-motion: reduce)");
    const follow = () => setCalm(query.matches);
    query.addEventListener("change", follow);
    return () => query.removeEventListener("change", follow);
  }, []);
  return calm;
}
