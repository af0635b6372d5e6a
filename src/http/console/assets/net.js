// Talking to the proxy: the session's token goes with everything that changes something.
export const session = { token: null };

export async function get(path) {
  const answer = await fetch(`/console/${path}`, { credentials: 'same-origin', cache: 'no-store' });
  return read(answer);
}

export async function post(path, body, signal) {
  const headers = { 'content-type': 'application/json' };
  if (session.token) headers['x-console-token'] = session.token;
  const answer = await fetch(`/console/${path}`, {
    method: 'POST', headers, credentials: 'same-origin', body: JSON.stringify(body ?? {}), signal,
  });
  return read(answer);
}

// A request whose answer is a stream.
export function stream(path, body, signal) {
  const headers = { 'content-type': 'application/json', accept: 'text/event-stream', 'x-console-token': session.token };
  return fetch(`/console/${path}`, { method: 'POST', headers, credentials: 'same-origin', body: JSON.stringify(body), signal });
}

export class Refused extends Error {
  constructor(status, code, message) { super(message); this.status = status; this.code = code; }
}

async function read(answer) {
  const told = answer.status === 204 ? {} : await answer.json().catch(() => ({}));
  if (answer.ok) return told;
  throw new Refused(answer.status, told.error?.code, told.error?.message ?? `HTTP ${answer.status}`);
}

export function socket() {
  const scheme = location.protocol === 'https:' ? 'wss' : 'ws';
  return new WebSocket(`${scheme}://${location.host}/console/live`, ['tabproxy-console', `token.${session.token}`]);
}
