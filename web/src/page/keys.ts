/** Keys in, deeds out; never while somebody types. */

import { useEffect, useRef } from "react";

export interface Shortcut {
  /** As `KeyboardEvent.key` gives it. */
  key: string;
  shown: string;
  does: string;
}

export const SHORTCUTS = [
  { key: " ", shown: "Space", does: "play or pause" },
  { key: "/", shown: "/", does: "go to the text box" },
  { key: "d", shown: "D", does: "roll a prompt" },
  { key: "m", shown: "M", does: "mix several prompts" },
  { key: "b", shown: "B", does: "choose the beat" },
  { key: "s", shown: "S", does: "change the sound" },
  { key: "r", shown: "R", does: "record, and stop recording" },
  { key: "l", shown: "L", does: "link to this moment" },
  { key: "c", shown: "C", does: "clips heard so far" },
  { key: "n", shown: "N", does: "make a song, a remix, a clip" },
  { key: "v", shown: "V", does: "relief or flat picture" },
  { key: "i", shown: "I", does: "what goes on inside" },
  { key: "?", shown: "?", does: "this help" },
  { key: "Escape", shown: "Esc", does: "leave the text box, close what is open" },
] as const satisfies readonly Shortcut[];

export type Key = (typeof SHORTCUTS)[number]["key"];

export function useKeys(deeds: Record<Key, () => void>): void {
  const latest = useRef(deeds);
  useEffect(() => {
    latest.current = deeds;
  });
  useEffect(() => {
    const press = (event: KeyboardEvent) => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
      const target = event.target as HTMLElement;
      if (event.key === "Escape") {
        if (isTyping(target)) target.blur();
        latest.current.Escape();
        return;
      }
      if (isTyping(target) || (event.key === " " && isPressable(target)) || document.querySelector("dialog[open]")) return;
      const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
      const deed = (latest.current as Record<string, (() => void) | undefined>)[key];
      if (!deed) return;
      event.preventDefault();
      deed();
    };
    addEventListener("keydown", press);
    return () => removeEventListener("keydown", press);
  }, []);
}

/** Ranges and radios take no letters, so letters go through them. */
function isTyping(element: HTMLElement): boolean {
  if (element instanceof HTMLInputElement) return !["range", "radio", "checkbox", "file"].includes(element.type);
  return element instanceof HTMLTextAreaElement || element instanceof HTMLSelectElement || element.isContentEditable;
}

function isPressable(element: HTMLElement): boolean {
  return element.closest("button, a, summary, audio, [role=button]") !== null || element instanceof HTMLInputElement;
}
