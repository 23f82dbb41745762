/** A title and its contents in, a sheet beside the music out (below it, on a phone). */

import { useEffect, useRef, type ReactNode } from "react";

import { Icon } from "./icons";

interface Props {
  title: string;
  close: () => void;
  children: ReactNode;
}

export function Sheet({ title, close, children }: Props) {
  const sheet = useRef<HTMLElement>(null);
  useEffect(() => {
    const before = document.activeElement as HTMLElement | null;
    sheet.current?.focus({ preventScroll: true });
    return () => {
      // Back to the button that opened it, unless the listener has moved on.
      if (sheet.current?.contains(document.activeElement) || document.activeElement === document.body) before?.focus();
    };
  }, []);
  return (
    <section
      ref={sheet}
      tabIndex={-1}
      aria-label={title}
      className="sheet pointer-events-auto fixed inset-x-0 bottom-0 z-20 flex max-h-[78dvh] flex-col rounded-t-3xl border border-line bg-dusk/95 backdrop-blur-md focus:outline-none md:inset-x-auto md:inset-y-4 md:right-4 md:max-h-none md:w-[25rem] md:rounded-3xl"
      onKeyDown={(event) => {
        if (event.key === "Escape") close();
      }}
    >
      <header className="flex items-center justify-between px-6 pt-5 pb-3">
        <h2 className="title">{title}</h2>
        <button type="button" aria-label={`Close ${title}`} className="grid size-10 place-items-center rounded-full hover:bg-cream/10" onClick={close}>
          <Icon name="close" />
        </button>
      </header>
      <div className="flex min-h-0 flex-1 flex-col gap-5 overflow-y-auto px-6 pb-6">{children}</div>
    </section>
  );
}
