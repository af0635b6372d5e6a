// The watchdog: reports to the site whatever appears in this page that the page did not put there.
// The page announces its own changes with a `practice-own` event that carries the change as a function;
// everything else that happens to the document, the globals or the storage is an intrusion.
(() => {
  'use strict';
  const EVERY_MS = 250;
  const SUSPECT = /^[_$]|^cdc_|tabproxy|playwright|puppeteer|selenium|chromiumoxide|webdriver/i;
  const reported = new Set();

  function report(kind, name) {
    const key = `${kind}: ${name}`;
    if (reported.has(key) || reported.size > 200) return;
    reported.add(key);
    fetch('/practice/intrusion', {
      method: 'POST',
      keepalive: true,
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ kind, name: String(name).slice(0, 200) }),
    }).catch(() => {});
  }

  // Globals: those present before us are the browser's, unless their name says otherwise.
  const globals = new Set(Object.getOwnPropertyNames(window));
  for (const name of globals) if (SUSPECT.test(name)) report('global', name);
  if (navigator.webdriver) report('navigator', 'webdriver');

  // The document.
  const describe = (node) => node.nodeType === Node.ELEMENT_NODE
    ? `<${node.localName}${node.id ? ` id=${node.id}` : ''}>` : node.nodeName;
  const observer = new MutationObserver(judge);
  function judge(records) {
    for (const { type, target, attributeName, addedNodes, removedNodes } of records) {
      if (type === 'attributes') report('attribute', `${describe(target)} ${attributeName}`);
      if (type === 'characterData') report('text', describe(target.parentNode ?? target));
      for (const node of addedNodes) report('added', describe(node));
      for (const node of removedNodes) report('removed', describe(node));
    }
  }
  observer.observe(document, { subtree: true, childList: true, attributes: true, characterData: true });
  document.addEventListener('practice-own', ({ detail: change }) => {
    judge(observer.takeRecords());
    change();
    observer.takeRecords();
  });

  // Storage: the page stores nothing, and its own cookies are unreadable.
  const keysOf = (storage) => Array.from({ length: storage.length }, (_, at) => storage.key(at));
  let beats = 0;
  async function look() {
    for (const name of Object.getOwnPropertyNames(window)) if (!globals.has(name)) report('global', name);
    for (const key of keysOf(localStorage)) report('localStorage', key);
    for (const key of keysOf(sessionStorage)) report('sessionStorage', key);
    for (const pair of document.cookie.split('; ')) if (pair) report('cookie', pair.split('=')[0]);
    beats += 1;
    if (beats % 4 !== 1) return;
    for (const { name } of await indexedDB.databases()) report('indexedDB', name);
    for (const name of await caches.keys()) report('cache', name);
    for (const { active } of await navigator.serviceWorker.getRegistrations()) {
      if (active && new URL(active.scriptURL).pathname !== '/sw.js') report('serviceWorker', active.scriptURL);
    }
  }
  const beat = () => look().catch((error) => report('watchdog', error));
  beat();
  setInterval(beat, EVERY_MS);
})();
