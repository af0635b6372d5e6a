// The npm `chatgpt` client, class ChatGPTUnofficialProxyAPI.
//   node --input-type=module - '{"url": "http://…/backend-api/conversation", "prompts": […]}' < chatgpt.mjs
// Prints one line of JSON: the answers, or the error that ended the talk.
import { ChatGPTUnofficialProxyAPI } from 'chatgpt'

const ask = JSON.parse(process.argv[2])
const api = new ChatGPTUnofficialProxyAPI({ accessToken: ask.token ?? 'token', apiReverseProxyUrl: ask.url })
const result = { answers: [] }
const controller = new AbortController()
let last = {}
try {
  for (const prompt of ask.prompts) {
    let progress = 0
    const answer = api.sendMessage(prompt, {
      conversationId: last.conversationId,
      parentMessageId: last.conversationId && last.id,
      abortSignal: controller.signal,
      onProgress: () => ++progress === ask.stop && controller.abort(),
    })
    // Without a `[DONE]` it never resolves.
    const late = new Promise(done => setTimeout(done, ask.patience ?? 60_000, null).unref())
    last = await Promise.race([answer, late])
    if (!last) {
      result.error = 'never resolved'
      break
    }
    result.answers.push({ text: last.text, conversation: last.conversationId, progress })
  }
} catch (error) {
  Object.assign(result, { error: error.message, status: error.statusCode ?? null })
}
console.log(JSON.stringify(result))
// Whoever wants to see what a client leaves behind that lives on ends it.
if (ask.hold) setInterval(() => {}, 60_000)
else process.exit()
