// MQTT.js in a real browser over WebSocket, with the package "mqtt" in NODE_MODULES and chromium in the PATH.
// Serves a page, has a headless browser open it, and waits for what the page reports.
//
//   node browser.mjs URL        a broker; with wss, whatever its certificate
//   node browser.mjs origins    writes the page's origin to stdout, and reads from stdin the URL of a listener
//                               that lets it connect, and that of one that does not
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import http from 'node:http';
import os from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';

const [, , what] = process.argv;
const WAIT = 90_000;
const bundle = path.join(process.env.NODE_MODULES, 'node_modules/mqtt/dist/mqtt.min.js');

// What runs in the page: the whole of what MQTT over WebSocket is.
async function everything(broker) {
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

// What runs in the page: who may connect.
async function origins(...brokers) {
  const outcome = (broker, protocolVersion) => new Promise((resolve) => {
    const client = window.mqtt.connect(broker, { protocolVersion, reconnectPeriod: 0 });
    const end = (text) => () => { resolve(text); client.end(true); };
    client.once('connect', end('open'));
    client.once('error', end('refused'));
    client.once('close', end('refused'));
  });
  const steps = [];
  for (const broker of brokers) {
    for (const protocolVersion of [4, 5]) steps.push(await outcome(broker, protocolVersion));
  }
  return steps;
}

const page = (test, urls) => `<!doctype html><script src="/mqtt.js"></script><script>
(${test})(...${JSON.stringify(urls)}).then(
  (steps) => ({ steps }),
  (error) => ({ error: String(error && error.stack || error) }),
).then((report) => fetch('/report', { method: 'POST', body: JSON.stringify(report) }));
</script>`;

// Serves on a port of its own; what "/" shows is set later, and what the page reports is a promise.
async function serve() {
  const site = { html: '' };
  let report;
  site.reported = new Promise((resolve) => { report = resolve; });
  site.server = http.createServer(async (request, response) => {
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
      response.end(site.html);
    } else {
      response.statusCode = 404;
      response.end();
    }
  });
  await new Promise((resolve) => { site.server.listen(0, '127.0.0.1', resolve); });
  site.origin = `http://127.0.0.1:${site.server.address().port}`;
  return site;
}

// Has a browser open the page, and says what that reports.
async function browse(site, ...flags) {
  const profile = await mkdtemp(path.join(os.tmpdir(), 'browser-'));
  const browser = spawn('chromium', [
    '--headless=new', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', ...flags,
    `--user-data-dir=${profile}`, `${site.origin}/`,
  ], { stdio: 'ignore' });
  try {
    return await Promise.race([site.reported, new Promise((_, reject) => {
      setTimeout(() => reject(new Error('the page reports nothing')), WAIT).unref();
      browser.on('error', reject);
      browser.on('exit', () => reject(new Error('the browser ended')));
    })]);
  } finally {
    browser.removeAllListeners('exit');
    browser.kill('SIGKILL');
    site.server.close();
    await rm(profile, { recursive: true, force: true, maxRetries: 10, retryDelay: 100 });
  }
}

async function main() {
  const site = await serve();
  const flags = [];
  let wanted;
  if (what === 'origins') {
    console.log(site.origin);
    const [line] = await once(createInterface({ input: process.stdin }), 'line');
    site.html = page(origins, line.split(' '));
    wanted = ['open', 'open', 'refused', 'refused'];
  } else {
    site.html = page(everything, [what]);
    const version = ['qos 0', 'qos 1', 'qos 2', 'clean true'];
    wanted = ['connected 4', ...version, 'connected 5', ...version, 'text 1003', 'chat is refused'];
    if (what.startsWith('wss:')) flags.push('--ignore-certificate-errors');
  }
  const report = await browse(site, ...flags);
  console.log(`browser: ${JSON.stringify(report)}`);
  assert.deepEqual(report, { steps: wanted });
  console.log('browser: all right');
}

main().then(() => process.exit(0), (error) => {
  console.error('browser: FAILED', error);
  process.exit(1);
});
