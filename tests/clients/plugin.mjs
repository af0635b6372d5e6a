// What the bot plugin (chatgpt-plugin for Yunzai, "API3") does, line for line in its ways: it is on no registry.
//   node --input-type=module - '{"url": "http://…", "prompts": […]}' < plugin.mjs
// Prints one line of JSON: what its user would read after each prompt, and how often it asked.
import { createParser } from 'eventsource-parser'
import { randomUUID } from 'node:crypto'
import http from 'node:http'

const ask = JSON.parse(process.argv[2])
// A socket's inactivity, before the first byte and between two: the plugin's own figure.
const TIMEOUT = ask.timeout ?? 10_000
const ATTEMPTS = 4

// One attempt, with ids of its own. Errors of HTTP say nothing to it but that there was one.
function attempt(prompt, conversation, parent, model) {
  const body = JSON.stringify({
    action: 'next',
    // No `author`.
    messages: [{ id: randomUUID(), role: 'user', content: { content_type: 'text', parts: [prompt] }, metadata: {} }],
    model,
    parent_message_id: parent,
    timezone_offset_min: -480,
    history_and_training_disabled: false,
    ...(conversation && { conversation_id: conversation }),
  })
  const headers = {
    accept: 'text/event-stream',
    'content-type': 'application/json',
    'content-length': Buffer.byteLength(body),
    authorization: ask.token ? `Bearer ${ask.token}` : '',
    library: 'chatgpt-plugin',
    referer: 'https://chat.openai.com/',
    'x-openai-assistant-app-id': '',
  }
  return new Promise((resolve, reject) => {
    const answer = { text: '', conversation, id: undefined }
    const request = http.request(ask.url, { method: 'POST', headers }, response => {
      let raw = ''
      const parser = createParser({
        onEvent({ data }) {
          if (data === '[DONE]') return resolve(answer)
          try {
            const event = JSON.parse(data)
            answer.conversation = event.conversation_id ?? answer.conversation
            answer.id = event.message?.id ?? answer.id
            // The last text that is one wins, whoever says it.
            const text = event.message?.content?.parts?.[0]
            if (text) answer.text = text
          } catch {
            // Events that it does not understand are none.
          }
        },
      })
      response.on('data', piece => {
        // Each piece is decoded on its own.
        const text = piece.toString()
        raw += text
        if (response.statusCode === 200) parser.feed(text)
      })
      response.on('end', () => reject(new Error(`ended: ${response.statusCode} ${raw.slice(0, 200)}`)))
      response.on('error', reject)
    })
    request.on('socket', socket => {
      socket.setTimeout(TIMEOUT)
      socket.on('timeout', () => request.destroy(new Error('timeout')))
    })
    request.on('error', reject)
    request.end(body)
  })
}

const shown = []
let conversation
let parent = randomUUID()
for (const prompt of ask.prompts) {
  let model = ask.model ?? 'gpt-4o'
  const failed = []
  let answer
  while (!answer && failed.length < ATTEMPTS) {
    try {
      answer = await attempt(prompt, conversation, parent, model)
      // The one sentence that it knows: it asks for less.
      if (answer.text.includes('You have sent too many messages to the model. Please try again later.') && model !== 'auto') {
        failed.push('too many messages')
        model = 'auto'
        answer = undefined
      }
    } catch (error) {
      failed.push(error.message)
    }
  }
  shown.push({ text: answer?.text ?? 'retry limit exceeded', conversation: answer?.conversation, failed, model })
  conversation = answer?.conversation ?? conversation
  parent = answer?.id ?? parent
}
console.log(JSON.stringify({ shown }))
process.exit()
