// MQTT.js in a real browser over WebSocket: node browser.mjs URL, with the package "mqtt" in NODE_MODULES and
// chromium in the PATH. Serves a page, has a headless browser open it, and waits for what the page reports.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import http from 'node:http';
import os from 'node:os';
import path from 'node:path';

const url = process.argv[2];
const WAIT = 90_000;
const bundle = path.join(process.env.NODE_MODULES, 'node_modules/mqtt/dist/mqtt.min.js');

// Runs in the page.
async function test(broker) {
  const wait = (emitter, event) => new Promise((resolve, reject) => {
    emitter.once(event, (...values) => resolve(values));
    emitter.once('error', reject);
  });
  const steps = [];
  for (const protocolVersion of [4, 5]) {
    const client = window.mqtt.connect(broker, { protocolVersion, reconnectPeriod: 0 });
    await wait(client, 'connect');
    steps.push(`connected ${protocolVersion}`);
    for (const qos of [0, 1, 2]) {
      const topic = `browser/${protocolVersion}/${qos}`;
      await client.subscribeAsync(topic, { qos });
      for (const length of [0, 1, 125, 126, 65_535, 65_536, 900_000]) {
        const sent = new Uint8Array(length).map((_, index) => index * 7);
        const message = wait(client, 'message');
        await client.publishAsync(topic, sent, { qos });
        const [, got] = await message;
        if (got.length !== length || !got.every((byte, index) => byte === sent[index])) {
          throw new Error(`${length} bytes at QoS ${qos} came as ${got.length}`);
        }
      }
      steps.push(`qos ${qos}`);
    }
    const { socket } = client.stream;
    const closed = new Promise((resolve) => {
      socket.addEventListener('close', (event) => resolve(event.wasClean));
    });
    await client.endAsync();
    steps.push(`clean ${await closed}`);
  }
  const plain = new WebSocket(broker, 'mqtt');
  plain.onopen = () => plain.send('text');
  const code = await new Promise((resolve) => { plain.onclose = (event) => resolve(event.code); });
  steps.push(`text ${code}`);
  const refused = new WebSocket(broker, 'chat');
  steps.push(await new Promise((resolve) => {
    refused.onopen = () => resolve('chat is spoken');
    refused.onclose = () => resolve('chat is refused');
  }));
  return steps;
}

const page = `<!doctype html><script src="/mqtt.js"></script><script>
(${test})(${JSON.stringify(url)}).then(
  (steps) => ({ steps }),
  (error) => ({ error: String(error && error.stack || error) }),
).then((report) => fetch('/report', { method: 'POST', body: JSON.stringify(report) }));
</script>`;

function serve(report) {
  return http.createServer(async (request, response) => {
    if (request.url === '/mqtt.js') {
      response.setHeader('Content-Type', 'text/javascript');
      response.end(await readFile(bundle));
    } else if (request.url === '/report') {
      let body = '';
      for await (const part of request) body += part;
      response.end();
      report(JSON.parse(body));
    } else if (request.url === '/') {
      response.setHeader('Content-Type', 'text/html');
      response.end(page);
    } else {
      response.statusCode = 404;
      response.end();
    }
  });
}

async function main() {
  const profile = await mkdtemp(path.join(os.tmpdir(), 'browser-'));
  let browser;
  let server;
  try {
    const report = await new Promise((resolve, reject) => {
      setTimeout(() => reject(new Error('the page reports nothing')), WAIT).unref();
      server = serve(resolve);
      server.listen(0, '127.0.0.1', () => {
        browser = spawn('chromium', [
          '--headless=new', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage',
          `--user-data-dir=${profile}`, `http://127.0.0.1:${server.address().port}/`,
        ], { stdio: 'ignore' });
        browser.on('error', reject);
        browser.on('exit', () => reject(new Error('the browser ended')));
      });
    });
    console.log(`browser: ${JSON.stringify(report)}`);
    assert.deepEqual(report.error, undefined);
    const version = ['qos 0', 'qos 1', 'qos 2', 'clean true'];
    assert.deepEqual(report.steps, [
      'connected 4', ...version, 'connected 5', ...version, 'text 1003', 'chat is refused',
    ]);
  } finally {
    browser?.removeAllListeners('exit');
    browser?.kill('SIGKILL');
    server?.close();
    await rm(profile, { recursive: true, force: true, maxRetries: 10, retryDelay: 100 });
  }
  console.log('browser: all right');
}

main().then(() => process.exit(0), (error) => {
  console.error('browser: FAILED', error);
  process.exit(1);
});
