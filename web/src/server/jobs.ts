/** A request in, its job's progress and at last its result out. */

import { authorised } from "./key";

export interface JobResult {
  duration_s: number;
  seed: number;
  compute_s?: number;
  audio: Record<string, string>;
  image?: string;
  plan?: string;
}

export interface Job {
  id: string;
  kind: string;
  status: "queued" | "running" | "done" | "failed" | "cancelled";
  progress: number;
  queue_position?: number | null;
  error?: { code: string; message: string; hint?: string } | null;
  result?: JobResult | null;
  preview?: string | null;
}

/** Seconds that the server may hold an answer back until something has changed. */
const WAIT_S = 2;

export class JobError extends Error {
  constructor(
    message: string,
    readonly hint = "",
  ) {
    super(message);
  }
}

/** Ask for a job; a file makes it a form. */
export async function submit(kind: string, request: Record<string, unknown>, file?: File): Promise<Job> {
  const wanted = Object.fromEntries(Object.entries(request).filter(([, value]) => value !== "" && value !== null && value !== undefined));
  if (!file) {
    const headers = { "content-type": "application/json" };
    return answered(await authorised(`/api/v1/${kind}`, { method: "POST", headers, body: JSON.stringify(wanted) }));
  }
  const form = new FormData();
  form.set("audio", file);
  form.set("request", JSON.stringify(wanted));
  return answered(await authorised(`/api/v1/${kind}`, { method: "POST", body: form }));
}

/** Yields the job each time it has changed, the last time when it is over. */
export async function* follow(job: Job, signal: AbortSignal): AsyncGenerator<Job> {
  let latest = job;
  while (latest.status === "queued" || latest.status === "running") {
    latest = await answered(await authorised(`/api/v1/jobs/${job.id}?wait=${WAIT_S}`, { signal }));
    yield latest;
    if (latest.status === "queued" || latest.status === "running") await pause(250);
  }
}

export async function cancel(job: Job): Promise<void> {
  await authorised(`/api/v1/jobs/${job.id}`, { method: "DELETE" });
}

async function answered(answer: Response): Promise<Job> {
  const body: unknown = await answer.json().catch(() => null);
  if (answer.ok) return body as Job;
  const error = (body as { error?: { message?: string; hint?: string } } | null)?.error;
  const later = answer.headers.get("retry-after");
  const hint = error?.hint ?? (later ? `Try again in ${later} s.` : "");
  throw new JobError(error?.message ?? `The server answers ${answer.status}`, hint);
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
