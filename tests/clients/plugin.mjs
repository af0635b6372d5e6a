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

// One attempt, with ids of its own.
function attempt(prompt, conversation, parent, model) {
  const body = JSON.stringify({
    action: 'next',
    // No `author`.
    messages: [{ id: randomUUID(), role: 'user', content: { content_type: 'text', parts: [prompt] }, metadata: {} }],
    model,
    parent_message_id: parent ?? randomUUID(),
    timezone_offset_min: -480,
    history_and_training_disabled: false,
    ...(conversation && { conversation_id: conversation }),
  })
  const headers = {
    accept: 'text/event-stream',
    'x-openai-assistant-app-id': '',
    authorization: ask.token ? `Bearer ${ask.token}` : '',
    'content-type': 'application/json',
    referer: 'https://chat.openai.com/chat',
    library: 'chatgpt-plugin',
  }
  return new Promise((resolve, reject) => {
    const answer = { text: undefined, conversation, id: undefined }
    const request = http.request(ask.url, { method: 'POST', headers }, response => {
      let raw = ''
      const parser = createParser({
        onEvent({ data }) {
          if (data === '[DONE]') return resolve(answer)
          let event
          try {
            event = JSON.parse(data)
          } catch {
            return
          }
          answer.conversation = event.conversation_id || answer.conversation
          answer.id = event.message?.id || answer.id
          // The last text that is one wins, whoever says it.
          answer.text = event.message?.content?.parts?.[0] || answer.text
        },
      })
      response.on('data', piece => {
        // Each piece is decoded on its own, and only a success is read.
        if (response.statusCode === 200) parser.feed(piece.toString())
        raw += piece
      })
      // A text and no error: what is in it is looked at by nobody. An answer that is cut ends in no way at all.
      response.on('end', () => reject(raw))
    })
    request.setTimeout(TIMEOUT, () => request.destroy(new Error('Request time out')))
    request.on('error', reject)
    request.end(body)
  })
}

const shown = []
let last = {}
for (const prompt of ask.prompts) {
  let model = ask.model ?? 'gpt-4o'
  const failed = []
  let answer
  while (!answer && failed.length < ATTEMPTS) {
    try {
      answer = await attempt(prompt, last.conversation, last.id, model)
    } catch (error) {
      // The one sentence that it knows has it ask for less.
      if (error.message?.includes('You have sent too many messages to the model. Please try again later.')) model = 'auto'
      failed.push(error.message ?? `without an end: ${error}`)
    }
  }
  shown.push({ text: answer?.text ?? 'retry limit exceeded', conversation: answer?.conversation, failed })
  last = answer ?? last
}
console.log(JSON.stringify({ shown }))
process.exit()
