// MQTT.js logs in by SCRAM-SHA-256, of which node's crypto is the client's side:
//
//   node mqttjs_scram.mjs HOST PORT USER PASSWORD OTHER_USER OTHER_PASSWORD
//
// with the package "mqtt" in NODE_MODULES. Both users were added with `sluice passwd --scram`.
import assert from 'node:assert/strict';
import { createHash, createHmac, pbkdf2Sync, randomBytes, timingSafeEqual } from 'node:crypto';
import { createRequire } from 'node:module';
import path from 'node:path';

const [host, port] = [process.argv[2], Number(process.argv[3])];
const ONE = { user: process.argv[4], password: process.argv[5] };
const OTHER = { user: process.argv[6], password: process.argv[7] };
const require = createRequire(path.join(process.env.NODE_MODULES, 'here.js'));
const mqtt = require('mqtt');

const METHOD = 'SCRAM-SHA-256';
const WAIT = 10_000;
const CONTINUE = 0x18;
const RE_AUTHENTICATE = 0x19;
const NOT_AUTHORIZED = 0x87;
const BAD_AUTHENTICATION_METHOD = 0x8c;
let serial = 0;

const hmac = (key, data) => createHmac('sha256', key).update(data).digest();

// The client's side of one exchange (RFC 5802, RFC 7677).
class Scram {
  constructor({ user, password }) {
    this.password = password;
    this.nonce = randomBytes(18).toString('base64');
    this.bare = `n=${user.replaceAll('=', '=3D').replaceAll(',', '=2C')},r=${this.nonce}`;
  }

  first() { return Buffer.from(`n,,${this.bare}`); }

  // The proof. `bend` may change it.
  last(challenge, bend = (proof) => proof) {
    const parts = /^r=([^,]+),s=([A-Za-z0-9+/=]+),i=(\d+)$/.exec(challenge.toString());
    assert.ok(parts, `a challenge: ${challenge}`);
    const [, nonce, salt, iterations] = parts;
    assert.ok(nonce.startsWith(this.nonce) && nonce.length >= this.nonce.length + 16, 'a nonce of the server');
    assert.ok(Number(iterations) >= 4096, 'iterations');
    const salted = pbkdf2Sync(this.password, Buffer.from(salt, 'base64'), Number(iterations), 32, 'sha256');
    const bare = `c=${Buffer.from('n,,').toString('base64')},r=${nonce}`;
    const said = `${this.bare},${challenge},${bare}`;
    const key = hmac(salted, 'Client Key');
    const signature = hmac(createHash('sha256').update(key).digest(), said);
    const proof = bend(Buffer.from(key.map((byte, at) => byte ^ signature[at])));
    this.signature = hmac(hmac(salted, 'Server Key'), said);
    return Buffer.from(`${bare},p=${proof.toString('base64')}`);
  }

  // That the server knows the password, too.
  verify(data) {
    assert.ok(data?.toString().startsWith('v='), `a signature of the server: ${data}`);
    const signature = Buffer.from(data.toString().slice(2), 'base64');
    assert.ok(signature.length === 32 && timingSafeEqual(signature, this.signature), 'the right signature');
  }
}

const properties = (data, method = METHOD) => ({ authenticationMethod: method, authenticationData: data });

class Client {
  // A client that has sent CONNECT; `ended` is how that goes: its CONNACK, or what MQTT.js calls an error.
  constructor(login, { method = METHOD, bend } = {}) {
    this.scram = new Scram(login);
    this.bend = bend;
    this.challenges = 0;
    this.mqtt = mqtt.connect({
      host, port, protocolVersion: 5, reconnectPeriod: 0, connectTimeout: WAIT,
      clientId: `scram${serial++}-${process.pid}`, properties: properties(this.scram.first(), method),
    });
    this.mqtt.handleAuth = (packet, callback) => this.auth(packet, callback);
    this.ended = new Promise((resolve) => {
      this.mqtt.once('connect', (connack) => resolve({ connack }));
      this.mqtt.once('error', (error) => resolve({ error }));
      this.mqtt.once('close', () => resolve({ error: new Error('closed before CONNACK') }));
    });
    this.mqtt.on('error', () => {}); // what fails is seen by who waits for it
  }

  // MQTT.js sends what the callback is given. It takes an AUTH with Success for an error: that is kept from it.
  auth({ reasonCode, properties: got }, callback) {
    try {
      assert.equal(got.authenticationMethod, METHOD);
      if (reasonCode === CONTINUE) {
        this.challenges += 1;
        const data = this.scram.last(got.authenticationData, this.bend);
        callback(null, { cmd: 'auth', reasonCode: CONTINUE, properties: properties(data) });
        return;
      }
      assert.equal(reasonCode, 0);
      this.scram.verify(got.authenticationData);
      this.again({ verified: true });
    } catch (error) {
      this.again?.({ error });
      callback(error);
    }
  }

  static async open(login) {
    const client = new Client(login);
    const { connack, error } = await client.ended;
    assert.ok(connack, `let in: ${error}`);
    assert.equal(client.challenges, 1);
    assert.equal(connack.properties.authenticationMethod, METHOD);
    client.scram.verify(connack.properties.authenticationData);
    return client;
  }

  // Logs in once more; gives whether the server has proved itself again, or the code of its DISCONNECT.
  async authenticateAgain(login, bend) {
    this.scram = new Scram(login);
    this.bend = bend;
    const outcome = new Promise((resolve) => { this.again = resolve; });
    this.mqtt.once('disconnect', ({ reasonCode }) => this.again({ disconnected: reasonCode }));
    this.mqtt.once('close', () => this.again({ error: new Error('closed without DISCONNECT') }));
    this.mqtt._sendPacket({ cmd: 'auth', reasonCode: RE_AUTHENTICATE, properties: properties(this.scram.first()) });
    return outcome;
  }

  // Whether a message comes back to it.
  async works(payload) {
    const topic = `scram/${this.mqtt.options.clientId}`;
    const came = new Promise((resolve) => { this.mqtt.once('message', (_, got) => resolve(got.toString())); });
    await this.mqtt.subscribeAsync(topic, { qos: 1 });
    await this.mqtt.publishAsync(topic, payload, { qos: 1 });
    assert.equal(await came, payload);
  }
}

async function refused(code, login, options) {
  const client = new Client(login, options);
  const { connack, error } = await client.ended;
  assert.ok(!connack, 'let in');
  assert.equal(error.code, code, `${error}`);
  return client;
}

async function rightPassword() {
  for (const login of [ONE, OTHER]) {
    const client = await Client.open(login);
    await client.works('one');
    await client.mqtt.endAsync();
  }
}

async function wrongProof() {
  const wrong = await refused(NOT_AUTHORIZED, { ...ONE, password: `${ONE.password}?` });
  assert.equal(wrong.challenges, 1);
  const flip = (proof) => { proof[31] ^= 1; return proof; };
  await refused(NOT_AUTHORIZED, ONE, { bend: flip });
  await refused(NOT_AUTHORIZED, ONE, { bend: () => Buffer.alloc(32) });
  await refused(NOT_AUTHORIZED, ONE, { bend: (proof) => proof.subarray(0, 31) });
  // A user who is not there is asked for a proof, too.
  const nobody = await refused(NOT_AUTHORIZED, { ...ONE, user: 'nobody' });
  assert.equal(nobody.challenges, 1);
  await refused(BAD_AUTHENTICATION_METHOD, ONE, { method: 'SCRAM-SHA-1' });
}

async function again() {
  const client = await Client.open(ONE);
  for (const payload of ['one', 'two']) {
    assert.deepEqual(await client.authenticateAgain(ONE), { verified: true });
    await client.works(payload);
  }
  const wrong = { ...ONE, password: `${ONE.password}?` };
  assert.deepEqual(await client.authenticateAgain(wrong), { disconnected: NOT_AUTHORIZED });
  const turncoat = await Client.open(ONE);
  assert.deepEqual(await turncoat.authenticateAgain(OTHER), { disconnected: NOT_AUTHORIZED });
}

async function main() {
  for (const test of [rightPassword, wrongProof, again]) {
    console.log(`mqtt.js, SCRAM: ${test.name}`);
    await test();
  }
}

main().then(() => process.exit(0), (error) => {
  console.error('mqtt.js, SCRAM: FAILED', error);
  process.exit(1);
});
