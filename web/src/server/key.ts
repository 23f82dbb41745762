/** A server's key in, requests that carry it out; kept as long as the tab is open. */

const STORED = "riffusion-key";

export function apiKey(): string | null {
  return sessionStorage.getItem(STORED);
}

export function setApiKey(key: string): void {
  sessionStorage.setItem(STORED, key);
}

/** `fetch`, with the key where there is one. */
export function authorised(address: string, init: RequestInit = {}): Promise<Response> {
  const key = apiKey();
  if (!key) return fetch(address, init);
  return fetch(address, { ...init, headers: { ...init.headers, authorization: `Bearer ${key}` } });
}
