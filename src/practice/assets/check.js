// The bot check: work that only a browser does, once per nonce. The server repeats it and compares.
(() => {
  'use strict';
  const { nonce, mode, least } = document.getElementById('check').dataset;
  const status = document.getElementById('check-status');
  const button = document.getElementById('check-button');
  const ROUNDS = 64;
  const encoder = new TextEncoder();

  const sha256 = async (bytes) => new Uint8Array(await crypto.subtle.digest('SHA-256', bytes));
  const hex = (bytes) => Array.from(bytes, (b) => b.toString(16).padStart(2, '0')).join('');

  async function work() {
    const salt = encoder.encode(nonce);
    let hash = await sha256(salt);
    for (let round = 1; round < ROUNDS; round += 1) {
      const joined = new Uint8Array(hash.length + salt.length);
      joined.set(hash);
      joined.set(salt, hash.length);
      hash = await sha256(joined);
    }
    return hex(hash);
  }

  // A person's press of the button; a script's does not count.
  const press = () => new Promise((resolve) => {
    status.textContent = 'Please confirm that you are a person.';
    button.hidden = false;
    button.addEventListener('click', (event) => { if (event.isTrusted) resolve(); });
  });

  async function run() {
    if (navigator.webdriver) {
      status.textContent = 'Verification failed: this browser is automated.';
      return;
    }
    // Nobody passes: go on "verifying" for ever, as the real one does.
    if (mode === 'never') return;
    const began = performance.now();
    if (mode === 'click') await press();
    const proof = await work();
    // A little more than asked for: the server's clock and the timer's need not agree to the millisecond.
    const rest = Number(least) + 10 - (performance.now() - began);
    if (rest > 0) await new Promise((resolve) => setTimeout(resolve, rest));
    const answer = await fetch('/practice/check', {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ nonce, proof, clicked: mode === 'click', webdriver: navigator.webdriver }),
    });
    if (answer.ok) location.reload();
    else status.textContent = `Verification failed: ${(await answer.json()).detail}.`;
  }

  run().catch(() => { status.textContent = 'Verification failed. Please reload the page.'; });
})();
