// The service worker: lets every request through, and tells the site about API requests that the home
// page did not send. The home page marks its own with a header.
'use strict';

self.addEventListener('install', () => self.skipWaiting());
self.addEventListener('activate', (event) => event.waitUntil(self.clients.claim()));

self.addEventListener('fetch', (event) => {
  const { pathname } = new URL(event.request.url);
  const isApi = pathname.startsWith('/backend-api/') || pathname.startsWith('/backend-anon/');
  if (isApi && !event.request.headers.has('x-practice-home')) {
    event.waitUntil(tell(event.request.url, event.clientId));
  }
});

async function tell(url, clientId) {
  const client = clientId ? await self.clients.get(clientId) : undefined;
  await fetch('/practice/sw-saw', {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ url, client: client ? client.url : 'unknown' }),
  });
}
