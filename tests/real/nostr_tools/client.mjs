// A client made of nostr-tools: `node client.mjs URL SCENARIO` plays one scenario and prints what it saw as JSON.

import { webcrypto } from 'node:crypto'

import { finalizeEvent, generateSecretKey, getPublicKey, verifyEvent } from 'nostr-tools/pure'
import { Relay, useWebSocketImplementation } from 'nostr-tools/relay'
import WebSocket from 'ws'

globalThis.crypto ??= webcrypto // which Node.js 18 does not offer by itself
useWebSocketImplementation(WebSocket)
const [url, scenario] = process.argv.slice(2)
const secret = generateSecretKey()
const author = getPublicKey(secret)
const now = Math.floor(Date.now() / 1000) - 100

const sign = (kind, { tags = [], content = '', seconds = 0 } = {}) =>
  finalizeEvent({ kind, tags, content, created_at: now + seconds }, secret)

const publish = async (relay, event) => {
  try {
    return { accepted: true, reason: await relay.publish(event) }
  } catch (error) {
    return { accepted: false, reason: error.message }
  }
}

const find = (relay, filter) =>
  new Promise((resolve, reject) => {
    const found = []
    const subscription = relay.subscribe([filter], {
      onevent: event => found.push(event),
      oneose: () => { resolve(found); subscription.close() },
      onclose: reason => reject(new Error(reason)),
    })
  })

const contents = events => events.map(event => event.content)

const scenarios = {
  async subscription(relay) {
    await publish(relay, sign(1, { content: 'stored é "quoted"\n' }))
    const seen = []
    await new Promise(resolve => {
      relay.subscribe([{ authors: [author] }], {
        onevent: event => {
          seen.push([event.content, verifyEvent(event)])
          if (event.content === 'live') resolve()
        },
        oneose: () => {
          seen.push('end of stored events')
          publish(relay, sign(1, { content: 'live' }))
        },
      })
    })
    return seen
  },
  async replacement(relay) {
    for (const kind of [10002, 30023]) {
      for (const [content, seconds] of [['old', 0], ['new', 2], ['late', 1]]) {
        await publish(relay, sign(kind, { content: `${kind} ${content}`, seconds, tags: [['d', 'x']] }))
      }
    }
    return contents(await find(relay, { authors: [author] })).sort()
  },
  async deletion(relay) {
    const [event, kept] = [sign(1, { content: 'deleted' }), sign(1, { content: 'kept' })]
    for (const each of [event, kept]) await publish(relay, each)
    const answer = await publish(relay, sign(5, { tags: [['e', event.id], ['k', '1']], seconds: 1 }))
    return { answer, again: await publish(relay, event), found: contents(await find(relay, { authors: [author], kinds: [1] })) }
  },
  async count(relay) {
    for (const content of ['a', 'b', 'c']) await publish(relay, sign(1, { content }))
    return relay.count([{ authors: [author] }], {})
  },
  async authentication(relay) {
    const event = sign(1, { tags: [['-']], content: 'protected' })
    const before = await publish(relay, event)
    await relay.auth(async template => finalizeEvent(template, secret))
    return { before, after: await publish(relay, event), found: contents(await find(relay, { ids: [event.id] })) }
  },
  async refusal(relay) {
    return publish(relay, { ...sign(1), content: 'changed after signing' })
  },
}

const relay = await Relay.connect(url)
console.log(JSON.stringify(await scenarios[scenario](relay)))
process.exit(0)
