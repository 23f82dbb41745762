/** A name in, a small drawing out. */

const PATHS = {
  play: "M7 4.5v15l12-7.5z",
  pause: "M7 5h3.5v14H7zM13.5 5H17v14h-3.5z",
  dice: "M5 3h14a2 2 0 0 1 2 2v14a2 2 0 0 1-2 2H5a2 2 0 0 1-2-2V5a2 2 0 0 1 2-2zM8 8h.01M16 8h.01M12 12h.01M8 16h.01M16 16h.01",
  mix: "M5 4v6M5 14v6M12 4v9M12 17v3M19 4v2M19 10v10M3 12h4M10 15h4M17 8h4",
  beat: "M3 12h3l2-7 4 14 3-10 2 3h4",
  sound: "M4 7h9M17 7h3M4 17h3M11 17h9M15 5v4M9 15v4",
  record: "M12 6a6 6 0 1 1 0 12 6 6 0 0 1 0-12z",
  share: "M12 15V4M8 8l4-4 4 4M5 13v6h14v-6",
  history: "M4 6h16M4 12h16M4 18h10",
  make: "M12 4v16M4 12h16",
  close: "M6 6l12 12M18 6L6 18",
  send: "M5 12h13M13 6l6 6-6 6",
  eye: "M3 12s3.5-6 9-6 9 6 9 6-3.5 6-9 6-9-6-9-6zM12 10a2 2 0 1 1 0 4 2 2 0 0 1 0-4z",
} as const;

export type IconName = keyof typeof PATHS;

const FILLED = new Set<IconName>(["play", "pause"]);

export function Icon({ name, size = 18 }: { name: IconName; size?: number }) {
  const filled = FILLED.has(name);
  return (
    <svg width={size} height={size} viewBox="0 0 24 24" aria-hidden="true" focusable="false" className="shrink-0">
      <path
        d={PATHS[name]}
        fill={filled ? "currentColor" : "none"}
        stroke={filled ? "none" : "currentColor"}
        strokeWidth="1.8"
        strokeLinecap="round"
        strokeLinejoin="round"
      />
    </svg>
  );
}
