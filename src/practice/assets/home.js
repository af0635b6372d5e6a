// The home page: sends what the person types to the conversation route and shows the streamed answer.
(() => {
  'use strict';
  const byId = (id) => document.getElementById(id);
  const [messages, composer, prompt, send, status, account] =
    ['messages', 'composer', 'prompt', 'send', 'status', 'account'].map(byId);
  let conversation;
  let parent = crypto.randomUUID();

  // Every change to the document goes through here, so that the watchdog knows it for ours.
  const own = (change) => document.dispatchEvent(new CustomEvent('practice-own', { detail: change }));
  const say = (text) => own(() => { status.textContent = text; });

  function addMessage(role, text) {
    const article = document.createElement('article');
    article.className = role;
    article.textContent = text;
    own(() => messages.append(article));
    return article;
  }

  // Keeps the text of an answer through events of either format. Operation and path of a delta carry over.
  function listener() {
    let text = '';
    let op = 'add';
    let path = '';
    const apply = (o, p, v) => {
      if (o === 'patch') v.forEach((step) => apply(step.o, step.p, step.v));
      else if (o === 'append' && p === '/message/content/parts/0') text += v;
      else if (o === 'add' && p === '') snapshot(v);
    };
    const snapshot = ({ message, conversation_id: id }) => {
      conversation = id ?? conversation;
      if (message?.author.role !== 'assistant') return;
      parent = message.id;
      text = message.content.parts[0];
    };
    return (name, data) => {
      if (data === '[DONE]' || name === 'ping' || name === 'delta_encoding') return text;
      const event = JSON.parse(data);
      if (name === 'delta') {
        op = event.o ?? op;
        path = event.p ?? path;
        apply(op, path, event.v);
      } else if (event.message) {
        snapshot(event);
      }
      return text;
    };
  }

  async function* events(body) {
    let rest = '';
    for await (const piece of body.pipeThrough(new TextDecoderStream())) {
      const blocks = (rest + piece).split('\n\n');
      rest = blocks.pop();
      for (const block of blocks) {
        const field = (name) => block.split('\n').find((line) => line.startsWith(`${name}: `))?.slice(name.length + 2);
        yield [field('event') ?? '', field('data') ?? ''];
      }
    }
  }

  async function ask(text) {
    const answer = await fetch('/backend-api/conversation', {
      method: 'POST',
      headers: { 'content-type': 'application/json', accept: 'text/event-stream', 'x-practice-home': '1' },
      body: JSON.stringify({
        action: 'next',
        messages: [{ id: crypto.randomUUID(), author: { role: 'user' }, content: { content_type: 'text', parts: [text] } }],
        model: 'auto',
        parent_message_id: parent,
        conversation_id: conversation,
      }),
    });
    if (answer.headers.get('cf-mitigated') === 'challenge') return location.reload();
    if (!answer.ok) throw new Error(`${answer.status}: ${(await answer.text()).slice(0, 300)}`);
    const article = addMessage('assistant', '');
    const read = listener();
    let done = false;
    for await (const [name, data] of events(answer.body)) {
      const text = read(name, data);
      own(() => { article.textContent = text; });
      done ||= data === '[DONE]';
    }
    if (!done) throw new Error('The answer broke off.');
  }

  composer.addEventListener('submit', async (event) => {
    event.preventDefault();
    const text = prompt.value.trim();
    if (!text) return;
    prompt.value = '';
    addMessage('user', text);
    own(() => { send.disabled = true; });
    say('Answering…');
    try {
      await ask(text);
      say('');
    } catch (error) {
      say(error.message);
    }
    own(() => { send.disabled = false; });
    prompt.focus();
  });

  prompt.addEventListener('keydown', (event) => {
    if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    composer.requestSubmit();
  });

  fetch('/api/auth/session').then((answer) => answer.json()).then(({ user }) => {
    if (user) own(() => { account.textContent = `Signed in as ${user.name}`; });
  }).catch(() => {});

  // A leak, if the site was told to have one: megabytes a second that nobody lets go of.
  const leak = Number(document.documentElement.dataset.leak);
  const kept = [];
  if (leak > 0) setInterval(() => kept.push(new Uint8Array(leak * 100_000).fill(1)), 100);

  navigator.serviceWorker.register('/sw.js').catch(() => {});
})();
