// The official OpenAI SDK for Node. Run from the directory that has it, this file on standard input:
//   node --input-type=module - '{"base": "http://…/v1", "case": "talk", …}' < openai.mjs
// Prints one line of JSON: what the SDK gave its caller.
import OpenAI from 'openai'

const ask = JSON.parse(process.argv[2])
const client = new OpenAI({ baseURL: ask.base, apiKey: ask.key ?? 'none', maxRetries: ask.retries })

const told = error => ({
  error: error.constructor.name,
  status: error.status ?? null,
  code: error.code ?? null,
  type: error.type ?? null,
  param: error.param ?? null,
  message: error.message,
  retryAfter: error.headers?.get?.('retry-after') ?? null,
})

// Reads a stream to its end, or to where it fails, or to as many pieces of text as `stop` says.
async function read(stream, stop = Infinity) {
  const got = { text: '', pieces: 0, ids: new Set(), models: new Set(), finish: null, usage: null }
  try {
    for await (const chunk of stream) {
      got.ids.add(`${chunk.id} ${chunk.created}`)
      got.models.add(chunk.model)
      if (chunk.usage) got.usage = chunk.usage
      const choice = chunk.choices[0]
      got.finish = choice?.finish_reason ?? got.finish
      if (choice?.delta.content) {
        got.text += choice.delta.content
        got.pieces += 1
      }
      // This is how the SDK is told to hang up.
      if (got.pieces >= stop) stream.controller.abort()
    }
  } catch (error) {
    Object.assign(got, told(error))
  }
  return { ...got, ids: got.ids.size, models: [...got.models] }
}

const cases = {
  // Each prompt is a turn of one chat.
  async talk({ prompts, stream, more, stop }) {
    const messages = []
    const answers = []
    for (const content of prompts) {
      messages.push({ role: 'user', content })
      const request = { model: 'gpt-4o', messages, stream, ...more }
      let answer
      if (stream) {
        answer = await read(await client.chat.completions.create(request), stop)
      } else {
        const { choices, usage, model, object } = await client.chat.completions.create(request)
        const { message, finish_reason } = choices[0]
        answer = { text: message.content, role: message.role, finish: finish_reason, usage, models: [model], object }
      }
      messages.push({ role: 'assistant', content: answer.text })
      answers.push(answer)
    }
    return { answers }
  },

  async respond({ prompts, stream }) {
    const answers = []
    let previous
    for (const input of prompts) {
      const request = { model: 'gpt-4o', input, stream, previous_response_id: previous }
      let whole = await client.responses.create(request)
      let text
      if (stream) {
        text = ''
        const events = whole
        for await (const event of events) {
          if (event.type === 'response.output_text.delta') text += event.delta
          if (event.type === 'response.completed') whole = event.response
        }
      }
      previous = whole.id
      const last = whole.output.at(-1)?.content?.[0]?.text ?? null
      answers.push({ text: text ?? whole.output_text, last, status: whole.status, usage: whole.usage })
    }
    return { answers }
  },

  async models() {
    const ids = []
    for await (const model of client.models.list()) ids.push(model.id)
    const one = await client.models.retrieve(ids[0])
    const none = await client.models.retrieve('no-such-model').catch(told)
    return { ids, one: one.id, none }
  },
}

try {
  console.log(JSON.stringify(await cases[ask.case](ask)))
} catch (error) {
  console.log(JSON.stringify(told(error)))
}
// Whoever wants to see what a client leaves behind that lives on ends it.
if (ask.hold) setInterval(() => {}, 60_000)
