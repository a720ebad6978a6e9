// MQTT.js against a broker: node mqttjs_client.mjs HOST PORT [mqtt | ws | wss CA], with the package "mqtt" in
// NODE_MODULES. CA is a file with the certificate of that of the broker.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';

const [host, port, protocol] = [process.argv[2], Number(process.argv[3]), process.argv[4] ?? 'mqtt'];
const ca = process.argv[5] && readFileSync(process.argv[5]);
const require = createRequire(path.join(process.env.NODE_MODULES, 'here.js'));
const mqtt = require('mqtt');

const run = `${Date.now().toString(36)}${process.pid}`;
const WAIT = 10_000;
const VERSIONS = [
  { name: '3.1', protocolId: 'MQIsdp', protocolVersion: 3 },
  { name: '3.1.1', protocolId: 'MQTT', protocolVersion: 4 },
  { name: '5', protocolId: 'MQTT', protocolVersion: 5 },
];
let serial = 0;

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

class Client {
  static async open(version, options = {}) {
    const { protocolId, protocolVersion } = version;
    const client = new Client();
    client.messages = [];
    client.mqtt = mqtt.connect({
      host, port, protocol, ca, path: '/mqtt', protocolId, protocolVersion, reconnectPeriod: 0, connectTimeout: WAIT,
      clientId: `js${serial++}${run}`.slice(0, 23), ...options,
    });
    client.mqtt.on('message', (topic, payload, packet) => client.messages.push(packet));
    client.mqtt.on('error', () => {}); // what fails is seen by who waits for it
    client.connack = await new Promise((resolve, reject) => {
      client.mqtt.once('connect', resolve);
      client.mqtt.once('error', reject);
      client.mqtt.once('close', () => reject(new Error('closed before CONNACK')));
    });
    return client;
  }

  subscribe(topic, options) { return this.mqtt.subscribeAsync(topic, options); }
  publish(topic, payload, options) { return this.mqtt.publishAsync(topic, payload, options); }
  close() { return this.mqtt.endAsync(); }
  die() { this.mqtt.stream.destroy(); return sleep(50); }

  async receive(count) {
    const deadline = Date.now() + WAIT;
    while (this.messages.length < count && Date.now() < deadline) await sleep(10);
    assert.ok(this.messages.length >= count, `${this.messages.length} of ${count} messages came`);
    return this.messages.splice(0, count);
  }

  async silent(ms = 500) {
    await sleep(ms);
    assert.deepEqual(this.messages.map((message) => `${message.topic} ${message.payload}`), []);
  }
}

const texts = (packets) => packets.map((packet) => packet.payload.toString());

async function everyQos(version) {
  const topic = `js/${run}/${version.name}/qos`;
  for (const granted of [0, 1, 2]) {
    const receiver = await Client.open(version);
    const sender = await Client.open(version);
    const [answer] = await receiver.subscribe(topic, { qos: granted });
    assert.equal(answer.qos, granted);
    for (const qos of [0, 1, 2]) await sender.publish(topic, `${qos}`, { qos });
    const got = (await receiver.receive(3)).map(({ payload, qos }) => `${payload} ${qos}`).sort();
    assert.deepEqual(got, [0, 1, 2].map((qos) => `${qos} ${Math.min(qos, granted)}`));
    await receiver.close();
    await sender.close();
  }
}

async function order(version) {
  const topic = `js/${run}/${version.name}/order`;
  const receiver = await Client.open(version);
  const sender = await Client.open(version);
  for (const qos of [0, 1, 2]) {
    await receiver.subscribe(topic, { qos });
    const numbers = Array.from({ length: 300 }, (_, number) => `${number}`);
    await Promise.all(numbers.map((number) => sender.publish(topic, number, { qos })));
    assert.deepEqual(texts(await receiver.receive(300)), numbers);
  }
  await receiver.silent();
  await receiver.close();
  await sender.close();
}

async function retained(version) {
  const topic = `js/${run}/${version.name}/retained`;
  const sender = await Client.open(version);
  await sender.publish(topic, 'kept', { qos: 1, retain: true });
  const receiver = await Client.open(version);
  await receiver.subscribe(topic, { qos: 1 });
  const [message] = await receiver.receive(1);
  assert.equal(`${message.payload} ${message.retain}`, 'kept true');
  await sender.publish(topic, '', { qos: 1, retain: true });
  await receiver.receive(1);
  const late = await Client.open(version);
  await late.subscribe(topic, { qos: 1 });
  await late.silent();
  for (const client of [late, receiver, sender]) await client.close();
}

async function wills(version) {
  const topic = `js/${run}/${version.name}/will`;
  const will = { topic, payload: Buffer.from('dead'), qos: 1, retain: false };
  const heir = await Client.open(version);
  await heir.subscribe(topic, { qos: 1 });
  await (await Client.open(version, { will })).die();
  assert.deepEqual(texts(await heir.receive(1)), ['dead']);
  await (await Client.open(version, { will })).close();
  await heir.silent();
  await heir.close();
}

async function keptSession(version) {
  const topic = `js/${run}/${version.name}/kept`;
  const options = { clientId: `kept${version.protocolVersion}${run}`.slice(0, 23), clean: false };
  if (version.protocolVersion === 5) options.properties = { sessionExpiryInterval: 300 };
  const first = await Client.open(version, options);
  assert.equal(first.connack.sessionPresent, false);
  await first.subscribe(topic, { qos: 2 });
  await first.close();
  const sender = await Client.open(version);
  for (const [at, qos] of [1, 2, 1, 2].entries()) await sender.publish(topic, `${at}`, { qos });
  const second = await Client.open(version, options);
  assert.equal(second.connack.sessionPresent, version.protocolVersion !== 3);
  const got = await second.receive(4);
  // MQTT.js shows a QoS 2 message at its PUBREL, so order holds within each QoS only.
  for (const [qos, wanted] of [[1, ['0', '2']], [2, ['1', '3']]]) {
    assert.deepEqual(texts(got.filter((packet) => packet.qos === qos)), wanted);
  }
  await second.close();
  await sender.close();
}

async function binaryAndLarge(version) {
  const topic = `js/${run}/${version.name}/large`;
  const client = await Client.open(version);
  await client.subscribe(topic, { qos: 1 });
  for (const size of [0, 1, 127, 128, 16_383, 16_384, 65_536, 900_000]) {
    const payload = Buffer.alloc(size, 'x\0y');
    await client.publish(topic, payload, { qos: 1 });
    assert.ok(payload.equals((await client.receive(1))[0].payload), `${size} bytes`);
  }
  await client.close();
}

async function properties(version) {
  const topic = `js/${run}/properties`;
  const client = await Client.open(version, { properties: { requestProblemInformation: true } });
  await client.subscribe(topic, { qos: 1, properties: { subscriptionIdentifier: 9 } });
  await client.publish(topic, 'x', {
    qos: 1,
    properties: {
      contentType: 'text/plain', responseTopic: 'there', correlationData: Buffer.from([0, 1]),
      userProperties: { a: ['1', '2'], b: '3' }, payloadFormatIndicator: true,
    },
  });
  const [{ properties: got }] = await client.receive(1);
  assert.equal(got.contentType, 'text/plain');
  assert.equal(got.responseTopic, 'there');
  assert.deepEqual([...got.correlationData], [0, 1]);
  assert.deepEqual({ ...got.userProperties }, { a: ['1', '2'], b: '3' });
  assert.equal([got.subscriptionIdentifier].flat()[0], 9);
  await client.close();
}

async function aliases(version) {
  const topic = `js/${run}/alias`;
  const receiver = await Client.open(version, { properties: { topicAliasMaximum: 5 } });
  const sender = await Client.open(version, { autoAssignTopicAlias: true });
  await receiver.subscribe(`${topic}/#`, { qos: 1 });
  for (let round = 0; round < 3; round += 1) {
    for (let number = 0; number < 8; number += 1) {
      await sender.publish(`${topic}/${number}`, `${number}`, { qos: 1 });
    }
  }
  for (const packet of await receiver.receive(24)) {
    // MQTT.js leaves the topic of the packet as it came, which may be an alias alone.
    assert.ok(packet.topic === '' || packet.topic === `${topic}/${packet.payload}`);
  }
  await receiver.close();
  await sender.close();
}

async function shared(version) {
  const topic = `js/${run}/shared`;
  const members = [await Client.open(version), await Client.open(version)];
  for (const member of members) await member.subscribe(`$share/group/${topic}`, { qos: 1 });
  const sender = await Client.open(version);
  for (let number = 0; number < 50; number += 1) await sender.publish(topic, `${number}`, { qos: 1 });
  const deadline = Date.now() + WAIT;
  const all = () => members.flatMap((member) => texts(member.messages));
  while (all().length < 50 && Date.now() < deadline) await sleep(10);
  const numbers = all().map(Number).sort((a, b) => a - b);
  assert.deepEqual(numbers, Array.from({ length: 50 }, (_, number) => number));
  assert.ok(members.every((member) => member.messages.length > 0));
  for (const client of [...members, sender]) await client.close();
}

async function main() {
  for (const version of VERSIONS) {
    for (const test of [everyQos, order, retained, wills, keptSession, binaryAndLarge]) {
      console.log(`mqtt.js: ${test.name}, version ${version.name}`);
      await test(version);
    }
  }
  for (const test of [properties, aliases, shared]) {
    console.log(`mqtt.js: ${test.name}`);
    await test(VERSIONS[2]);
  }
  console.log(`mqtt.js: all right over ${protocol}`);
}

main().then(() => process.exit(0), (error) => {
  console.error('mqtt.js: FAILED', error);
  process.exit(1);
});
