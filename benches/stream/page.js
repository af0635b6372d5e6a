// The page floor: the carrier's way of fetching and reading, in a carrier's document, but nothing leaves the
// page. Events are counted and timed here; each function gives one JSON result at its end.
globalThis.floor = (() => {
  'use strict';
  const CHUNK = 64 * 1024; // as carrier.js asks of one read
  const DIGITS = 16; // of a stamp: Unix microseconds
  const TAIL = 32; // enough of what came before to read a stamp that two pieces share
  const NEWLINE = 10;
  const BRACE = '}'.charCodeAt(0);
  const MARK = [...'"t":'].map((c) => c.charCodeAt(0));
  const DONE = 'data: [DONE]\n\n';

  // What to add to performance.now() to get the time of day: the latter is read where it changes.
  function offset() {
    const found = [];
    for (let i = 0; i < 9; i += 1) {
      const before = Date.now();
      let now = before;
      while (now === before) now = Date.now();
      found.push(now - performance.now());
    }
    return found.sort((a, b) => a - b)[4];
  }

  // The stamp of the event whose line ends before `end`, or NaN.
  function stamp(bytes, end) {
    const from = end - 1 - DIGITS;
    if (from < MARK.length || bytes[end - 1] !== BRACE) return NaN;
    for (let i = 0; i < MARK.length; i += 1) if (bytes[from - MARK.length + i] !== MARK[i]) return NaN;
    let value = 0;
    for (let i = from; i < end - 1; i += 1) value = value * 10 + (bytes[i] - 48);
    return value;
  }

  function join(a, b) {
    const both = new Uint8Array(a.length + b.length);
    both.set(a);
    both.set(b, a.length);
    return both;
  }

  async function read(body, each) {
    const reader = body.getReader({ mode: 'byob' });
    let spare = new ArrayBuffer(CHUNK);
    for (;;) {
      const { value, done } = await reader.read(new Uint8Array(spare, 0, CHUNK));
      if (done) return;
      each(value);
      spare = value.buffer;
    }
  }

  async function ask(path, init) {
    const target = new URL(path, location.origin);
    const response = await fetch(target, { credentials: 'include', referrer: `${location.origin}/`, ...init });
    if (!response.ok) throw new Error(`status ${response.status}`);
    return response;
  }

  async function streams({ path, body, count, events }) {
    const base = offset();
    const began = performance.now();
    const out = { delays: [], first: [], complete: 0, failures: [], seconds: 0 };
    const headers = { 'content-type': 'application/json', accept: 'text/event-stream' };
    async function one() {
      const response = await ask(path, { method: 'POST', headers, body });
      let tail = new Uint8Array(0);
      let seen = 0;
      let first = 0;
      await read(response.body, (bytes) => {
        const now = performance.now();
        if (first === 0) out.first.push((first = now - began));
        for (let at = bytes.indexOf(NEWLINE); at !== -1; at = bytes.indexOf(NEWLINE, at + 1)) {
          const written = at > TAIL ? stamp(bytes, at) : stamp(join(tail, bytes.subarray(0, at)), tail.length + at);
          if (written === written) {
            out.delays.push(Math.round((base + now) * 1000 - written));
            seen += 1;
          }
        }
        tail = bytes.length >= TAIL ? bytes.slice(-TAIL) : join(tail, bytes).slice(-TAIL);
      });
      if (seen === events && new TextDecoder().decode(tail).endsWith(DONE)) out.complete += 1;
      else out.failures.push(`${seen} of ${events} events`);
    }
    await Promise.all(Array.from({ length: count }, () => one().catch((error) => out.failures.push(String(error)))));
    out.seconds = (performance.now() - began) / 1000;
    return out;
  }

  async function bulk({ path }) {
    const began = performance.now();
    let bytes = 0;
    await read((await ask(path, { cache: 'no-store' })).body, (value) => (bytes += value.length));
    return { bytes, seconds: (performance.now() - began) / 1000 };
  }

  async function firstBytes({ path, requests }) {
    const times = [];
    for (let i = 0; i < requests; i += 1) {
      const began = performance.now();
      let first = 0;
      await read((await ask(path, { cache: 'no-store' })).body, () => (first ||= performance.now() - began));
      times.push(first);
    }
    return times;
  }

  return { streams, bulk, firstBytes };
})();
