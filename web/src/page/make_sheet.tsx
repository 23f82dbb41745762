/** A wish and perhaps a recording in, a finished piece out: clips, songs, remixes, continuations. */

import { useEffect, useRef, useState, type FormEvent } from "react";

import { cancel, follow, JobError, submit, type Job } from "../server/jobs";
import { fieldOf, type Schema } from "../server/schema";
import { FieldControl } from "./field";
import { minutes } from "./saving";
import { Sheet } from "./sheet";

const KINDS = {
  song: { label: "Song", about: "A plan of sections, bars and prompts; sections of one name return.", file: false, fields: ["style", "movement", "steps"] },
  remix: { label: "Remix", about: "Your recording, played by the prompt.", file: true, fields: ["strength", "guidance", "steps"] },
  extend: { label: "Extend", about: "Music that goes on where your recording ends.", file: true, fields: ["duration_s", "steps"] },
  interpolate: { label: "Walk", about: "From one prompt to the next, a line each, in one piece.", file: false, fields: ["guidance", "steps"] },
  generate: { label: "Clip", about: "One clip of any length.", file: false, fields: ["duration_s", "guidance", "steps"] },
} as const;
type Kind = keyof typeof KINDS;

const PLAN = 'intro 2 "strings" | verse 4 "jazz piano" | chorus 4 "electronic beats" | verse | chorus | outro 2';

/** The part of a request that is typed. */
function wish(kind: Kind, text: string): Record<string, unknown> {
  if (kind === "song") return { plan: text };
  if (kind !== "interpolate") return { prompt: text };
  const lines = text.split("\n").map((line) => line.trim()).filter(Boolean);
  return { waypoints: lines.map((prompt) => ({ prompt })) };
}

interface Entry {
  job: Job;
  title: string;
  controller: AbortController;
}

/** Jobs outlive the sheet: they are kept by the page. */
export interface Workshop {
  entries: Entry[];
  start: (kind: string, title: string, request: Record<string, unknown>, file?: File) => Promise<void>;
  stop: (entry: Entry) => void;
}

export function useWorkshop(): Workshop {
  const [entries, setEntries] = useState<Entry[]>([]);
  const put = (entry: Entry, job: Job) =>
    setEntries((all) => all.map((each) => (each.controller === entry.controller ? { ...each, job } : each)));

  const watch = async (entry: Entry) => {
    try {
      for await (const job of follow(entry.job, entry.controller.signal)) put(entry, job);
    } catch (error) {
      if (entry.controller.signal.aborted) return;
      put(entry, { ...entry.job, status: "failed", error: { code: "lost", message: (error as Error).message } });
    }
  };
  return {
    entries,
    start: async (kind, title, request, file) => {
      const job = await submit(kind, request, file);
      const entry = { job, title, controller: new AbortController() };
      setEntries((all) => [entry, ...all]);
      void watch(entry);
    },
    stop: (entry) => {
      void cancel(entry.job);
      entry.controller.abort();
      put(entry, { ...entry.job, status: "cancelled" });
    },
  };
}

interface Props {
  schema: Schema;
  workshop: Workshop;
  prompt: string;
  close: () => void;
}

export function MakeSheet({ schema, workshop, prompt, close }: Props) {
  const [kind, setKind] = useState<Kind>("song");
  const [text, setText] = useState<Record<Kind, string>>({ song: PLAN, remix: prompt, extend: prompt, interpolate: `${prompt || "funky piano"}\nchurch bells`, generate: prompt });
  const [values, setValues] = useState<Record<string, number | string | null>>({});
  const [problem, setProblem] = useState("");
  const [busy, setBusy] = useState(false);
  const file = useRef<HTMLInputElement>(null);
  const { about, file: needsFile, fields } = KINDS[kind];
  const properties = schema.requests[kind]?.properties ?? {};

  const make = async (event: FormEvent) => {
    event.preventDefault();
    const recording = file.current?.files?.[0];
    if (needsFile && !recording) return setProblem("Choose a recording first.");
    const chosen = Object.fromEntries(fields.map((name) => [name, values[name]]));
    const request = { ...wish(kind, text[kind]), ...chosen };
    setBusy(true);
    try {
      await workshop.start(kind, kind === "song" ? "Song" : `${KINDS[kind].label}: ${text[kind]}`, request, needsFile ? recording : undefined);
      setProblem("");
    } catch (error) {
      setProblem(`${(error as Error).message} ${error instanceof JobError ? error.hint : ""}`);
    }
    setBusy(false);
  };

  return (
    <Sheet title="Make" close={close}>
      <div role="group" aria-label="What to make" className="flex flex-wrap gap-2">
        {(Object.keys(KINDS) as Kind[]).map((each) => (
          <button key={each} type="button" aria-pressed={each === kind} className="chip" onClick={() => setKind(each)}>
            {KINDS[each].label}
          </button>
        ))}
      </div>
      <form className="flex flex-col gap-4" onSubmit={(event) => void make(event)}>
        <p className="quiet">{about}</p>
        {needsFile && (
          <label className="block">
            <span className="mb-1 block">Recording</span>
            <input ref={file} type="file" accept="audio/*,.wav,.flac,.ogg,.mp3" className="text-field file:mr-3 file:rounded-full file:border-0 file:bg-cream file:px-3 file:py-1 file:text-night" />
          </label>
        )}
        <label className="block">
          <span className="mb-1 block">{kind === "song" ? "Plan" : kind === "interpolate" ? "Prompts" : "Prompt"}</span>
          <textarea rows={kind === "song" ? 5 : kind === "interpolate" ? 4 : 2} className="text-field" required={kind !== "extend"} maxLength={20000} value={text[kind]} onChange={(event) => setText({ ...text, [kind]: event.target.value })} />
        </label>
        {fields.map((name) => {
          const field = fieldOf(name, properties[name]);
          return field && <FieldControl key={`${kind}-${name}`} field={field} value={values[name]} change={(value) => setValues((all) => ({ ...all, [name]: value }))} />;
        })}
        {problem && <p role="alert" className="text-coral">{problem}</p>}
        <button type="submit" className="solid self-start px-5" disabled={busy}>
          Make it
        </button>
      </form>
      <ul aria-label="Made so far" className="flex flex-col gap-4 empty:hidden">
        {workshop.entries.map((entry) => (
          <JobCard key={entry.job.id} entry={entry} stop={() => workshop.stop(entry)} />
        ))}
      </ul>
    </Sheet>
  );
}

const STATES = { queued: "waiting", running: "in the making", done: "done", failed: "failed", cancelled: "cancelled" } as const;

function JobCard({ entry: { job, title }, stop }: { entry: Entry; stop: () => void }) {
  const { status, progress, result, error, preview } = job;
  const going = status === "queued" || status === "running";
  const picture = result?.image ?? preview;
  const names = Object.entries(result?.audio ?? {});
  return (
    <li className="overflow-hidden rounded-xl border border-line">
      {picture && <img src={`${picture}${going ? `?at=${progress.toFixed(2)}` : ""}`} alt="" className="h-20 w-full object-cover invert" />}
      <div className="flex flex-col gap-2 px-4 py-3">
        <p className="font-serif text-xl leading-tight">{title}</p>
        <p className="quiet" role="status">
          {STATES[status]}
          {status === "queued" && job.queue_position ? `, number ${job.queue_position}` : ""}
          {result ? ` · ${minutes(result.duration_s)} · seed ${result.seed}` : ""}
          {error ? `: ${error.message} ${error.hint ?? ""}` : ""}
        </p>
        {going && (
          <div className="flex items-center gap-3">
            <progress className="h-2 w-full accent-coral" max={1} value={progress} aria-label={`Progress of ${title}`} />
            <button type="button" className="chip py-1" onClick={stop}>
              Cancel
            </button>
          </div>
        )}
        {result && (
          <>
            <Audio source={result.audio["ogg"] ?? result.audio["wav"] ?? names[0]?.[1] ?? ""} title={title} />
            <p className="flex flex-wrap gap-2 text-sm">
              {names.map(([format, url]) => (
                <a key={format} className="chip py-1 uppercase" href={url} download aria-label={`Save ${title} as ${format}`}>
                  {format}
                </a>
              ))}
            </p>
          </>
        )}
      </div>
    </li>
  );
}

function Audio({ source, title }: { source: string; title: string }) {
  const element = useRef<HTMLAudioElement>(null);
  useEffect(() => {
    const audio = element.current;
    return () => audio?.pause();
  }, []);
  return <audio ref={element} controls preload="none" src={source} aria-label={title} className="w-full" />;
}
