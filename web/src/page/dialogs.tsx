/** Help and about: modal, closed by Escape. */

import { useEffect, useRef, type ReactNode } from "react";

import type { Schema } from "../server/schema";
import { Icon } from "./icons";
import { SHORTCUTS } from "./keys";

function Dialog({ title, close, children }: { title: string; close: () => void; children: ReactNode }) {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => dialog.current?.showModal(), []);
  return (
    <dialog ref={dialog} aria-label={title} onClose={close} className="m-auto max-h-[86dvh] w-[min(36rem,92vw)] overflow-y-auto rounded-3xl border border-line bg-dusk p-7 text-cream backdrop:bg-night/70">
      <header className="mb-4 flex items-center justify-between">
        <h2 className="title">{title}</h2>
        <button type="button" aria-label={`Close ${title}`} className="grid size-10 place-items-center rounded-full hover:bg-cream/10" onClick={() => dialog.current?.close()}>
          <Icon name="close" />
        </button>
      </header>
      {children}
    </dialog>
  );
}

export function Help({ close }: { close: () => void }) {
  return (
    <Dialog title="Keys" close={close}>
      <dl className="grid grid-cols-[5rem_1fr] gap-y-2.5">
        {SHORTCUTS.map(({ shown, does }) => (
          <div key={shown} className="contents">
            <dt>
              <kbd className="rounded-md border border-line bg-night px-2 py-0.5 font-sans">{shown}</kbd>
            </dt>
            <dd>{does}</dd>
          </div>
        ))}
      </dl>
    </Dialog>
  );
}

export function About({ schema, close }: { schema: Schema; close: () => void }) {
  const { name } = schema.model;
  return (
    <Dialog title="About" close={close}>
      <div className="flex flex-col gap-4">
        <p className="font-serif text-2xl leading-snug">
          You type. A network paints a spectrogram, the picture of a sound. Another step turns the picture into the sound itself. That is all there is to it.
        </p>
        <p>
          Time runs away from you, low notes lie left, high ones right, and a hill is as high as its note is loud. What has not been heard yet waits in the dark before the red pane. Each prompt has colours of its own; on the way from one to another they dawn.
        </p>
        <p>
          Every clip is drawn by the machine that serves this page, a moment before you hear it{name ? `, by the model ${name}` : ""}. Four clips lead from one seed to the next; a new prompt is reached in a few. The same prompt and seed bring the same music, so a link can bring a moment back.
        </p>
        <p>
          The idea is Seth Forsgren&rsquo;s and Hayk Martiros&rsquo;s: they made <a className="underline underline-offset-4 hover:text-coral" href="https://www.riffusion.com/about">Riffusion</a> in 2022. This page and its engine, riffusion-rt{schema.version ? ` ${schema.version}` : ""}, are new, and free software under the MIT licence.
        </p>
        <p className="quiet flex flex-wrap gap-x-5 gap-y-1">
          <a className="underline underline-offset-4" href="/docs">Programs: the API</a>
          <a className="underline underline-offset-4" href="/LICENCES.txt">Licences of what this page is made with</a>
        </p>
      </div>
    </Dialog>
  );
}
