// An independent parser of event streams, `eventsource-parser`, fed with the pieces as they come off the wire.
//   node --input-type=module - '{"url": "http://…", "body": {…}}' < sse.mjs
// Prints one line of JSON: what the events were.
import { createParser } from 'eventsource-parser'
import http from 'node:http'

const ask = JSON.parse(process.argv[2])
const got = { status: 0, events: 0, done: 0, afterDone: 0, comments: 0, names: [], bad: 0, errors: [], ended: '', text: '' }
const parser = createParser({
  onEvent({ event, data }) {
    got.events += 1
    got.afterDone += got.done
    if (event && !got.names.includes(event)) got.names.push(event)
    if (data === '[DONE]') return (got.done += 1)
    // The site's own pings have a time in them, which is no JSON.
    if (event === 'ping') return
    try {
      const json = JSON.parse(data)
      got.text = json.message?.content?.parts?.[0] ?? got.text
      got.text += json.choices?.[0]?.delta.content ?? ''
      if (json.error) got.errors.push(json.error)
    } catch {
      got.bad += 1
    }
  },
  onComment: () => (got.comments += 1),
  onError: error => got.errors.push(error.message),
})
const finish = how => {
  got.ended ||= how
  console.log(JSON.stringify(got))
  process.exit()
}
const headers = { 'content-type': 'application/json', accept: 'text/event-stream', ...ask.headers }
const request = http.request(ask.url, { method: 'POST', headers }, response => {
  got.status = response.statusCode
  got.type = response.headers['content-type']
  response.setEncoding('utf8')
  response.on('data', piece => parser.feed(piece))
  response.on('end', () => finish('end'))
  response.on('error', error => finish(error.code))
})
request.on('error', error => finish(error.code))
request.end(JSON.stringify(ask.body))
