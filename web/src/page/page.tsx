/** The session in, the whole page out. */

import { useCallback, useEffect, useRef, useState, useSyncExternalStore } from "react";

import { rollPrompt } from "../link/dice";
import type { LiveSession, Snapshot } from "../live/session";
import { setApiKey } from "../server/key";
import { ASSUMED, fetchSchema, type NoSchema, type Schema } from "../server/schema";
import type { Recording } from "../sound/recorder";
import { BeatSheet } from "./beat_sheet";
import { Composer } from "./composer";
import { About, Help } from "./dialogs";
import { HistorySheet } from "./history_sheet";
import { Icon, type IconName } from "./icons";
import { useKeys } from "./keys";
import { MakeSheet, useWorkshop } from "./make_sheet";
import { Banner, Meter } from "./meter";
import { MixSheet } from "./mix_sheet";
import { minutes } from "./saving";
import { InsideSheet, RecordingSheet, ShareSheet } from "./small_sheets";
import { SoundSheet } from "./sound_sheet";
import { Stack } from "./stack";
import { Stage, type ViewChoice } from "./stage";

type SheetName = "mix" | "beat" | "sound" | "share" | "clips" | "make" | "inside" | "recording";

/** Between two questions to a server that is not ready. */
const ASK_AGAIN_MS = 1500;

/** The fewest steps that the banner's offer goes down to. */
const FEWEST_STEPS = 4;

export function Page({ session }: { session: LiveSession }) {
  const state = useSyncExternalStore(session.subscribe, session.snapshot);
  const [schema, problem, enter] = useSchema(session);
  const [sheet, setSheet] = useState<SheetName | null>(null);
  const [dialog, setDialog] = useState<"help" | "about" | null>(null);
  const [view, setView] = useView();
  const [recording, setRecording] = useState<Recording | null>(null);
  const [again, setAgain] = useState<{ url: string; title: string } | null>(null);
  const workshop = useWorkshop();
  const box = useRef<HTMLInputElement>(null);
  const awake = state.phase === "playing" || state.phase === "paused";

  const toggle = (name: SheetName) => () => setSheet((open) => (open === name ? null : name));
  const close = () => setSheet(null);

  const record = () => {
    if (state.recordingS !== null) {
      setRecording(session.stopRecording());
      setSheet("recording");
    } else if (awake) session.record();
  };
  const roll = () => {
    session.steer([{ text: rollPrompt(), weight: 1 }]);
    if (state.phase !== "playing") void session.play();
  };
  const hear = (blob: Blob, title: string) => {
    session.pause();
    setAgain((before) => {
      if (before) URL.revokeObjectURL(before.url);
      return { url: URL.createObjectURL(blob), title };
    });
  };
  const backToMusic = () => {
    if (again) URL.revokeObjectURL(again.url);
    setAgain(null);
    void session.play();
  };
  const back = useCallback((text: string) => session.steer([{ text, weight: 1 }]), [session]);
  const flip = () => setView(view === "flat" ? "relief" : view === "relief" ? "flat" : document.querySelector("[data-view=flat]") ? "relief" : "flat");

  const title = state.walk.filter((line) => line.tense === "now").map((line) => line.text).join(" + ");
  useEffect(() => {
    document.title = title ? `${title} · riffusion` : "Riffusion live";
  }, [title]);

  useKeys({
    " ": () => session.toggle(),
    "/": () => box.current?.focus(),
    d: roll,
    m: toggle("mix"),
    b: toggle("beat"),
    s: toggle("sound"),
    r: record,
    l: toggle("share"),
    c: toggle("clips"),
    n: toggle("make"),
    v: flip,
    i: toggle("inside"),
    "?": () => setDialog("help"),
    Escape: close,
  });

  return (
    <>
      <Stage session={session} schema={schema} choice={view} />
      <div className="scrim pointer-events-none fixed inset-0" aria-hidden="true" />
      <div className="pointer-events-none fixed inset-0 flex flex-col [--stack:clamp(2.7rem,6.2vw,5.6rem)] [&_:is(a,button,input,label,select,p,li)]:pointer-events-auto">
        <header className="flex items-start justify-between gap-4 px-5 pt-4 md:px-12 md:pt-8">
          <h1 className="font-serif text-2xl tracking-tight italic md:text-3xl">riffusion</h1>
          <Meter state={state} />
        </header>

        <main className="flex min-h-0 flex-1 flex-col justify-end gap-5 px-5 pb-4 md:gap-7 md:px-12 md:pb-8">
          <div className="max-w-[min(46rem,100%)]">
            {state.walk.length ? (
              <Stack lines={state.walk} asleep={!awake} back={back} />
            ) : (
              <p className="font-serif text-[length:calc(var(--stack)*0.95)] leading-[1.02]">
                Type a sound.
                <br />
                Hear it without end.
              </p>
            )}
          </div>
          <div className="flex max-w-[46rem] flex-col gap-4">
            {again && (
              <div className="flex flex-wrap items-center gap-3 rounded-xl border border-line bg-night/85 px-4 py-2.5">
                <p>
                  Hearing again: <span className="font-serif text-lg">{again.title}</span>
                </p>
                <audio src={again.url} autoPlay controls aria-label={`Hearing again: ${again.title}`} className="h-9 max-w-full" onEnded={backToMusic} />
                <button type="button" className="chip py-1" onClick={backToMusic}>
                  Back to the music
                </button>
              </div>
            )}
            <Banner state={state} fewerSteps={fewerSteps(session, state)} dismiss={() => session.dismissFailure()} />
            {problem && <Trouble problem={problem} enter={enter} />}
            <Composer session={session} state={state} box={box} />
          </div>
          <nav aria-label="Tools" className="-mx-5 flex gap-1 overflow-x-auto px-5 text-sm [scrollbar-width:none] md:mx-0 md:flex-wrap md:gap-2 md:px-0">
            <Tool icon="mix" label="Mix" hint="M" open={sheet === "mix"} press={toggle("mix")} />
            <Tool icon="beat" label="Beat" hint="B" open={sheet === "beat"} press={toggle("beat")} />
            <Tool icon="sound" label="Sound" hint="S" open={sheet === "sound"} press={toggle("sound")} />
            <RecordButton state={state} press={record} disabled={!awake} />
            <Tool icon="share" label="Share" hint="L" open={sheet === "share"} press={toggle("share")} />
            <Tool icon="history" label="Clips" hint="C" open={sheet === "clips"} press={toggle("clips")} />
            <Tool icon="make" label="Make" hint="N" open={sheet === "make"} press={toggle("make")} />
            <span className="flex md:ml-auto">
              <button type="button" className={TOOL} aria-keyshortcuts="V" onClick={flip} aria-label="Relief or flat picture" title="Relief or flat picture (V)">
                <Icon name="eye" size={17} />
              </button>
              <button type="button" className={TOOL} aria-keyshortcuts="?" onClick={() => setDialog("help")}>
                Keys
              </button>
              <button type="button" className={TOOL} onClick={() => setDialog("about")}>
                About
              </button>
            </span>
          </nav>
        </main>

        {sheet === "mix" && <MixSheet session={session} close={close} />}
        {sheet === "beat" && <BeatSheet session={session} state={state} schema={schema} close={close} />}
        {sheet === "sound" && <SoundSheet session={session} state={state} schema={schema} close={close} />}
        {sheet === "share" && <ShareSheet session={session} close={close} />}
        {sheet === "clips" && <HistorySheet session={session} state={state} close={close} hear={hear} />}
        {sheet === "make" && <MakeSheet schema={schema} workshop={workshop} prompt={state.moment.prompts[0]?.text ?? ""} close={close} />}
        {sheet === "inside" && <InsideSheet state={state} close={close} />}
        {sheet === "recording" && recording && <RecordingSheet session={session} state={state} recording={recording} close={close} />}
      </div>
      {dialog === "help" && <Help close={() => setDialog(null)} />}
      {dialog === "about" && <About schema={schema} close={() => setDialog(null)} />}
      <Announcer state={state} />
    </>
  );
}

const TOOL = "inline-flex min-h-10 items-center gap-2 rounded-full px-3 text-cream transition-colors hover:bg-cream/10 aria-expanded:bg-cream aria-expanded:text-night disabled:hover:bg-transparent";

function Tool({ icon, label, hint, open, press }: { icon: IconName; label: string; hint: string; open: boolean; press: () => void }) {
  return (
    <button type="button" className={TOOL} aria-expanded={open} aria-keyshortcuts={hint} title={`${label} (${hint})`} onClick={press}>
      <Icon name={icon} size={17} /> {label}
    </button>
  );
}

function RecordButton({ state, press, disabled }: { state: Snapshot; press: () => void; disabled: boolean }) {
  const on = state.recordingS !== null;
  return (
    <button type="button" className={`${TOOL} ${on ? "text-coral" : ""}`} aria-pressed={on} aria-keyshortcuts="R" title="Record (R)" disabled={disabled} onClick={press}>
      <span className={on ? "recording-dot" : ""}>
        <Icon name="record" size={17} />
      </span>
      {on ? <span className="tabular-nums">{minutes(state.recordingS ?? 0)}</span> : "Record"}
    </button>
  );
}

/** What a screen reader says by itself: what is heard, and what comes. */
function Announcer({ state }: { state: Snapshot }) {
  const loudest = state.walk.filter((line) => line.tense === "now").sort((a, b) => b.share - a.share)[0];
  const next = state.walk.filter((line) => line.tense === "next").map((line) => line.text).join(" and ");
  const words =
    state.phase === "waking" ? "Making the first bar" : state.phase === "paused" ? "Paused" : state.phase === "playing" && loudest ? `Playing ${loudest.text}${next ? `. Up next: ${next}` : ""}` : "";
  return (
    <p className="sr-only" role="status" aria-live="polite" data-testid="announcer">
      {words}
    </p>
  );
}

/** Halve the steps, while there is something to halve. */
function fewerSteps(session: LiveSession, state: Snapshot): (() => void) | null {
  const wanted = state.moment.config.steps ?? state.status?.wanted_steps ?? state.status?.steps;
  if (!wanted || wanted <= FEWEST_STEPS) return null;
  return () => session.configure({ steps: Math.max(FEWEST_STEPS, Math.round(wanted / 2)) });
}

/** The server's facts, asked for until they come; `enter` tries a key. */
function useSchema(session: LiveSession): [Schema, NoSchema | null, (key: string) => void] {
  const [schema, setSchema] = useState(ASSUMED);
  const [problem, setProblem] = useState<NoSchema | null>(null);
  const [tries, setTries] = useState(0);
  useEffect(() => {
    let over = false;
    let timer: ReturnType<typeof setTimeout> | undefined;
    fetchSchema().then(
      (given) => {
        if (over) return;
        session.setSchema(given);
        setSchema(given);
        setProblem(null);
      },
      (error: NoSchema) => {
        if (over) return;
        setProblem(error);
        if (error.cause !== "key") timer = setTimeout(() => setTries((count) => count + 1), ASK_AGAIN_MS);
      },
    );
    return () => {
      over = true;
      clearTimeout(timer);
    };
  }, [session, tries]);
  const enter = (key: string) => {
    setApiKey(key);
    setTries((count) => count + 1);
  };
  return [schema, problem, enter];
}

function Trouble({ problem, enter }: { problem: NoSchema; enter: (key: string) => void }) {
  const [key, setKey] = useState("");
  if (problem.cause !== "key") {
    return <p role="alert" className="text-coral">{problem.cause === "busy" ? `${problem.message}…` : `The server cannot be reached: ${problem.message}`}</p>;
  }
  return (
    <form
      className="flex flex-wrap items-end gap-2"
      onSubmit={(event) => {
        event.preventDefault();
        enter(key.trim());
      }}
    >
      <label>
        <span className="mb-1 block">{problem.message}</span>
        <input type="password" autoComplete="current-password" className="text-field" value={key} onChange={(event) => setKey(event.target.value)} />
      </label>
      <button type="submit" className="solid">
        Open
      </button>
    </form>
  );
}

const VIEW_KEY = "riffusion-view";

/** Relief or flat: what the address says, else what was chosen last time. */
function useView(): [ViewChoice, (view: ViewChoice) => void] {
  const [view, setView] = useState<ViewChoice>(() => {
    const wanted = new URLSearchParams(location.search).get("view") ?? localStorage.getItem(VIEW_KEY);
    return wanted === "relief" || wanted === "flat" ? wanted : "auto";
  });
  return [
    view,
    (next) => {
      localStorage.setItem(VIEW_KEY, next);
      setView(next);
    },
  ];
}
