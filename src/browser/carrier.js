// The carrier: performs fetches in a quiet document of the site's own origin and sends the answers to us.
//
// Evaluated once in a document that the site never served, as `(<this file>)(config)`. The other side is
// channel.rs, or link/binding.rs for a browser that runs elsewhere; the format of the messages is described in
// frame.rs, and the two change together.
//
// Why it looks like this (measured; see the crate docs):
//  - frames are gathered in one buffer and flushed by a MessageChannel task, so that everything that became
//    readable in one turn of the event loop leaves in one message;
//  - bodies are read with BYOB readers, so that a read never exceeds the credit and its buffer is reused.
((config) => {
  'use strict';
  // url: our socket, or binding: the name of the function that reaches us in its place; credit: bytes that an
  // exchange may send at first; chunk: most bytes a read asks for; buffer: size of the buffer that messages are
  // gathered in.
  const { url, binding, credit, chunk, buffer } = config;
  const HEADER = 9;
  const [HEAD, DATA, END, FAIL, AGE, ECHO, GOT, LANES] = [...'HDEXTPGL'].map((c) => c.charCodeAt(0));
  const [REQUEST, BODY, START_FETCH, CREDIT, CANCEL] = [...'RBSAC'].map((c) => c.charCodeAt(0));
  const utf8 = new TextEncoder();
  const text = new TextDecoder();
  const exchanges = new Map();

  const send = binding ? overBinding() : overSocket();

  // ---- out ----------------------------------------------------------------------------------------------
  // Room for the AGE frame is kept at the front of every message.
  const START = HEADER + 4;
  const out = new Uint8Array(buffer);
  const view = new DataView(out.buffer);
  view.setUint8(4, AGE);
  view.setUint32(5, 4);
  let used = START;
  let oldest = 0;
  let scheduled = false;
  const task = new MessageChannel();
  task.port1.onmessage = flush;

  function flush() {
    scheduled = false;
    if (used === START) return;
    view.setUint32(HEADER, oldest === 0 ? 0 : Math.min((performance.now() - oldest) * 1000, 0xffffffff));
    send(out.subarray(0, used));
    used = START;
    oldest = 0;
  }

  function put(id, kind, payload) {
    const size = HEADER + payload.length;
    if (used + size > out.length) flush();
    view.setUint32(used, id);
    view.setUint8(used + 4, kind);
    view.setUint32(used + 5, payload.length);
    out.set(payload, used + HEADER);
    used += size;
    if (kind === DATA && oldest === 0) oldest = performance.now();
    if (used >= buffer * 0.375) {
      flush();
    } else if (!scheduled) {
      scheduled = true;
      task.port2.postMessage(0);
    }
  }

  const NOTHING = new Uint8Array(0);
  const json = (value) => utf8.encode(JSON.stringify(value));
  const fail = (id, what, error, sent) =>
    put(id, FAIL, json({ what, message: String((error && error.message) || error).slice(0, 4000), sent }));

  // The policy of this document stops a redirect to another origin before anything is sent there. The fetch
  // just fails; this event, which comes about the same time, tells why.
  const stopped = new Set();
  document.addEventListener('securitypolicyviolation', ({ blockedURI }) => {
    stopped.add(blockedURI);
    setTimeout(() => stopped.delete(blockedURI), 1000);
  });
  const SETTLE = 20;
  async function failFetch(id, request, error) {
    await new Promise((resolve) => setTimeout(resolve, SETTLE));
    if (stopped.has(request.url)) fail(id, 'redirect', request.url, true);
    else fail(id, 'network', error, true);
  }

  // The browser itself makes requests wait where a site speaks HTTP/1.1 (six connections) or allows few streams
  // in one of HTTP/2, and nobody sees them there. How it went is known once an exchange is over: then we say how
  // many the site takes at once, and the others wait outside.
  const FREE = 2; // connections left for the site's own page and for a look whether all is well
  const LONG = 1000;
  let [open, most, lanes] = [0, 0, Infinity];
  performance.setResourceTimingBufferSize(0);
  new PerformanceObserver((list) => {
    for (const { initiatorType, nextHopProtocol, connectEnd, requestStart } of list.getEntries()) {
      if (initiatorType !== 'fetch') continue;
      let seen = Infinity;
      if (nextHopProtocol.startsWith('http/1')) seen = 6 - FREE;
      else if (requestStart - connectEnd > LONG) seen = Math.max(most, 1);
      if (seen >= lanes) continue;
      lanes = seen;
      const payload = new Uint8Array(4);
      new DataView(payload.buffer).setUint32(0, lanes);
      put(0, LANES, payload);
    }
  }).observe({ type: 'resource' });

  // ---- one exchange -------------------------------------------------------------------------------------
  async function run(id, exchange) {
    let request;
    try {
      const target = new URL(exchange.path, location.origin);
      if (target.origin !== location.origin) throw new TypeError('the path leads to another origin');
      const init = {
        method: exchange.method,
        headers: exchange.headers,
        body: exchange.length > 0 ? exchange.body : undefined,
        signal: exchange.abort.signal,
        credentials: 'include',
        referrer: `${location.origin}/`,
      };
      // A cache entry being written makes the next reader of the same address wait for the first one's end.
      if (exchange.method === 'GET' || exchange.method === 'HEAD') init.cache = 'no-store';
      request = new Request(target, init);
    } catch (error) {
      fail(id, 'request', error, false);
      exchanges.delete(id);
      return;
    }
    exchange.body = null;
    let answered = 0;
    try {
      const response = await fetch(request);
      answered = 1;
      open += answered;
      most = Math.max(most, open);
      let redirected = null;
      if (response.redirected) {
        const at = new URL(response.url);
        redirected = at.pathname + at.search;
      }
      const head = json({ status: response.status, headers: [...response.headers], redirected });
      if (HEADER + START + head.length > buffer) {
        fail(id, 'head', 'the answer has more header bytes than fit a message', true);
        exchange.abort.abort();
        return;
      }
      put(id, HEAD, head);
      if (response.body) await pump(id, exchange, response.body);
      put(id, END, NOTHING);
    } catch (error) {
      if (!exchange.cancelled) await failFetch(id, request, error);
    } finally {
      open -= answered;
      exchanges.delete(id);
    }
  }

  async function pump(id, exchange, body) {
    const reader = body.getReader({ mode: 'byob' });
    let spare = new ArrayBuffer(chunk);
    for (;;) {
      while (exchange.credit <= 0) await new Promise((wake) => (exchange.wake = wake));
      const { value, done } = await reader.read(new Uint8Array(spare, 0, Math.min(chunk, exchange.credit)));
      if (exchange.cancelled || done) return;
      exchange.credit -= value.length;
      put(id, DATA, value);
      spare = value.buffer;
    }
  }

  // ---- in -----------------------------------------------------------------------------------------------
  // A request that is here whole but was not told to start: asked for at the end of the message.
  const whole = [];

  function start(id, exchange) {
    if (exchange.have < exchange.length) return;
    if (exchange.started) run(id, exchange);
    else whole.push(id);
  }

  function ask() {
    for (const id of whole) {
      const exchange = exchanges.get(id);
      if (exchange !== undefined && !exchange.started) put(id, GOT, NOTHING);
    }
    whole.length = 0;
  }

  function receive(id, kind, payload) {
    if (kind === REQUEST) {
      const { method, path, headers, body } = JSON.parse(text.decode(payload));
      const exchange = {
        method, path, headers, length: body, have: 0, body: body > 0 ? new Uint8Array(body) : null,
        started: false, credit, wake: null, cancelled: false, abort: new AbortController(),
      };
      exchanges.set(id, exchange);
      start(id, exchange);
      return;
    }
    if (kind === ECHO) {
      put(id, ECHO, NOTHING);
      return;
    }
    const exchange = exchanges.get(id);
    if (exchange === undefined) return;
    if (kind === BODY) {
      exchange.body.set(payload, exchange.have);
      exchange.have += payload.length;
      start(id, exchange);
    } else if (kind === START_FETCH && !exchange.started) {
      exchange.started = true;
      start(id, exchange);
    } else if (kind === CREDIT) {
      exchange.credit += new DataView(payload.buffer, payload.byteOffset).getUint32(0);
      wake(exchange);
    } else if (kind === CANCEL) {
      stop(id, exchange);
    }
  }

  function wake(exchange) {
    const waiting = exchange.wake;
    exchange.wake = null;
    if (waiting) waiting();
  }

  function stop(id, exchange) {
    exchange.cancelled = true;
    exchange.abort.abort();
    exchange.credit = Math.max(exchange.credit, 1); // a waiting pump goes on to its aborted read and ends
    wake(exchange);
    exchanges.delete(id);
  }

  function receiveAll(data) {
    const message = new DataView(data);
    for (let at = 0; at + HEADER <= data.byteLength; ) {
      const length = message.getUint32(at + 5);
      receive(message.getUint32(at), message.getUint8(at + 4), new Uint8Array(data, at + HEADER, length));
      at += HEADER + length;
    }
    ask();
  }

  // Without the channel nobody reads the answers: nothing may go on running at the site.
  function stopAll() {
    for (const [id, exchange] of exchanges) stop(id, exchange);
  }

  // ---- the channel --------------------------------------------------------------------------------------
  function overSocket() {
    const socket = new WebSocket(url);
    socket.binaryType = 'arraybuffer';
    socket.onmessage = ({ data }) => receiveAll(data);
    socket.onclose = stopAll;
    return (bytes) => {
      if (socket.readyState === WebSocket.OPEN) socket.send(bytes);
    };
  }

  // Messages are base64 here. That the other side has gone shows by its silence only: it sends an echo every
  // two seconds.
  function overBinding() {
    const PATIENCE = 20000;
    const call = globalThis[binding];
    let heard = performance.now();
    call.deliver = (text) => {
      heard = performance.now();
      receiveAll(decode(text));
    };
    setInterval(() => {
      if (performance.now() - heard < PATIENCE) return;
      stopAll();
      close();
    }, 1000);
    call(''); // by which it is known that we are here
    return (bytes) => call(encode(bytes));
  }

  // Browsers have had base64 of bytes since 2025; before that only of strings.
  function encode(bytes) {
    if (bytes.toBase64) return bytes.toBase64();
    let text = '';
    for (let at = 0; at < bytes.length; at += 8192) {
      text += String.fromCharCode(...bytes.subarray(at, at + 8192));
    }
    return btoa(text);
  }

  function decode(text) {
    if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text).buffer;
    return Uint8Array.from(atob(text), (it) => it.charCodeAt(0)).buffer;
  }
})
