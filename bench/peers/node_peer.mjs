// A bot written with the official Node SDK: the handler does the writes, then resolves.
// usage: node node_peer.mjs BASE_URL APP_ID APP_SECRET PG_HOST PG_USER PG_DATABASE INSTALLATION_ID
import { readFileSync } from 'node:fs'
import * as lark from '@larksuiteoapi/node-sdk'
import pg from 'pg'

const [baseUrl, appId, appSecret, host, user, database, installation] = process.argv.slice(2)
const pool = new pg.Pool({ host, user, database, max: 10 })

// pg takes $1, $2 …; the shared file names its parameters.
const statements = readFileSync(new URL('./writes.sql', import.meta.url), 'utf8')
  .split(';').map((text) => text.trim()).filter(Boolean)
  .map((text, index) => {
    const names = []
    const numbered = text.replace(/%\((\w+)\)s/g, (_, name) => {
      if (!names.includes(name)) names.push(name)
      return `$${names.indexOf(name) + 1}`
    })
    return { name: `write_${index}`, text: numbered, names }
  })
const run = (client, index, values) => {
  const { name, text, names } = statements[index]
  return client.query({ name, text, values: names.map((key) => values[key]) })
}

const onMessage = async (data) => {
  const values = {
    installation,
    message: data.message.message_id,
    sender: data.sender.sender_id.open_id,
    chat: data.message.chat_id,
    text: JSON.parse(data.message.content).text,
  }
  const client = await pool.connect()
  try {
    await client.query('begin')
    if ((await run(client, 0, values)).rowCount === 1) {
      const row = (await run(client, 1, values)).rows[0]
      Object.assign(values, {
        user: row.user_id, session: row.chat_session_id, workspace: row.workspace_id, agent: row.agent_id,
      })
      for (const index of [2, 3, 4, 5]) await run(client, index, values)
    }
    await client.query('commit')
  } catch (error) {
    await client.query('rollback')
    throw error
  } finally {
    client.release()
  }
}

const eventDispatcher = new lark.EventDispatcher({}).register({ 'im.message.receive_v1': onMessage })
new lark.WSClient({ appId, appSecret, domain: baseUrl, loggerLevel: lark.LoggerLevel.warn }).start({ eventDispatcher })
