// A client of actlink's native wire in plain JavaScript: Node 20 or later, no packages. docs/wire.md is the specification.
//
//   node native_client.mjs 127.0.0.1 8001 [MODEL]     ask a server (listening on native+tcp) for one chunk of actions
//   node native_client.mjs --check FOLDER              prove encoder and decoder against golden vectors (tests/data/native)
//
// A token, where the server wants one, is taken from the environment variable ACTLINK_TOKEN.
// To use it from your own code: import { NativeClient, NdArray } from "./native_client.mjs".

import net from "node:net";
import { readFileSync, readdirSync, realpathSync } from "node:fs";
import { join } from "node:path";
import { isDeepStrictEqual } from "node:util";
import { fileURLToPath } from "node:url";

export const PROTOCOL = 1;

// ---- Values -----------------------------------------------------------------------------------------------------------

/** The wire does not allow these bytes. */
export class ProtocolError extends Error {}

/** An error that the server sent: `code` is for programs, `message` for people. */
export class RemoteError extends Error {
  constructor({ code, message }) {
    super(`${code}: ${message ?? ""}`);
    this.code = code;
  }
}

// Node 20 has no array of 16-bit floats: their bits are given as they are.
const TYPES = {
  bool: Uint8Array, uint8: Uint8Array, uint16: Uint16Array, uint32: Uint32Array, uint64: BigUint64Array,
  int8: Int8Array, int16: Int16Array, int32: Int32Array, int64: BigInt64Array,
  float16: Uint16Array, float32: Float32Array, float64: Float64Array,
};

/** An array of any number of axes: `data` is a typed array in C order (last axis fastest). */
export class NdArray {
  constructor(dtype, shape, data) {
    this.dtype = dtype;
    this.shape = shape;
    this.data = data ?? new TYPES[dtype](shape.reduce((product, axis) => product * axis, 1));
  }

  get bytes() {
    return new Uint8Array(this.data.buffer, this.data.byteOffset, this.data.byteLength);
  }
}

const aligned = (position) => Math.ceil(position / 16) * 16;

// ---- Encoder ----------------------------------------------------------------------------------------------------------

/** A message as bytes: a plain msgpack map, or with arrays a prefix, the map, padding and the arrays' bytes. */
export function encode(message) {
  const arrays = [];
  const header = Buffer.concat(pack(message, arrays));
  if (arrays.length === 0) return header;
  const prefix = Buffer.alloc(8);
  prefix[0] = 0xc1;
  prefix.writeUInt32LE(header.length, 4);
  const parts = [prefix, header, Buffer.alloc(aligned(8 + header.length) - 8 - header.length)];
  let end = 0;
  for (const { offset, array } of arrays) {
    parts.push(Buffer.alloc(offset - end), array.bytes);
    end = offset + array.bytes.length;
  }
  return Buffer.concat(parts);
}

function pack(value, arrays, key = "") {
  if (value === null || value === undefined) return [Buffer.of(0xc0)];
  if (typeof value === "boolean") return [Buffer.of(value ? 0xc3 : 0xc2)];
  if (typeof value === "string") return packString(value);
  // Seconds, milliseconds and rates are floats even when they are whole; everything else whole is an integer.
  if (typeof value === "number" && (!Number.isInteger(value) || /_(s|ms|hz)$/.test(key))) return packFloat(value);
  if (typeof value === "number" || typeof value === "bigint") return packInteger(BigInt(value));
  if (value instanceof NdArray) return packArray(value, arrays);
  if (Array.isArray(value)) {
    return [sized(value.length, 0x90, 16, null, 0xdc), ...value.flatMap((item) => pack(item, arrays))];
  }
  const entries = Object.entries(value);
  return [
    sized(entries.length, 0x80, 16, null, 0xde),
    ...entries.flatMap(([name, item]) => [...packString(name), ...pack(item, arrays, name)]),
  ];
}

function packArray(array, arrays) {
  const last = arrays.at(-1);
  const offset = last ? aligned(last.offset + last.array.bytes.length) : 0;
  arrays.push({ offset, array });
  const content = Buffer.concat(pack([array.dtype, array.shape, offset, array.bytes.length], []));
  const fixed = { 1: 0xd4, 2: 0xd5, 4: 0xd6, 8: 0xd7, 16: 0xd8 }[content.length];
  return [fixed ? Buffer.of(fixed, 1) : Buffer.of(0xc7, content.length, 1), content];
}

function packString(text) {
  const bytes = Buffer.from(text, "utf8");
  return [sized(bytes.length, 0xa0, 32, 0xd9, 0xda), bytes];
}

/** The head of a string, list or map: its length in the shortest form. `byte8` is null where there is no 8-bit form. */
function sized(length, fix, fixLimit, byte8, byte16) {
  if (length < fixLimit) return Buffer.of(fix | length);
  if (length < 256 && byte8 !== null) return Buffer.of(byte8, length);
  if (length < 65536) return Buffer.of(byte16, length >> 8, length & 255);
  const head = Buffer.of(byte16 + 1, 0, 0, 0, 0);
  head.writeUInt32BE(length, 1);
  return head;
}

function packFloat(value) {
  const bytes = Buffer.of(0xcb, 0, 0, 0, 0, 0, 0, 0, 0);
  bytes.writeDoubleBE(value, 1);
  return [bytes];
}

function packInteger(value) {
  if (value >= 0n && value < 128n) return [Buffer.of(Number(value))];
  if (value < 0n && value >= -32n) return [Buffer.of(256 + Number(value))];
  const sizes = [8n, 16n, 32n, 64n];
  const index = sizes.findIndex((bits) => (value >= 0n ? value < 1n << bits : value >= -(1n << (bits - 1n))));
  if (index < 0) throw new ProtocolError(`${value} does not fit into 64 bits`);
  const bytes = Buffer.alloc(9);
  bytes.writeBigUInt64BE(BigInt.asUintN(64, value), 1);
  const size = Number(sizes[index]) / 8;
  return [Buffer.of((value >= 0n ? 0xcc : 0xd0) + index), bytes.subarray(9 - size)];
}

// ---- Decoder ----------------------------------------------------------------------------------------------------------

const LIMITS = { headerBytes: 256 * 1024, arrays: 4096, axes: 8, entries: 1024, containers: 4096, depth: 16, stringBytes: 65536 };

/** The message in `bytes` (a Uint8Array); its arrays are views on `bytes`. Throws ProtocolError for anything else. */
export function decode(bytes) {
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let header = buffer;
  let payload = null;
  if (buffer[0] === 0xc1) {
    if (buffer.length < 8 || buffer.readUIntBE(1, 3) !== 0) throw new ProtocolError("bad prefix");
    const length = buffer.readUInt32LE(4);
    if (8 + length > buffer.length) throw new ProtocolError("the header ends outside the frame");
    header = buffer.subarray(8, 8 + length);
    payload = buffer.subarray(aligned(8 + length));
  }
  if (header.length > LIMITS.headerBytes) throw new ProtocolError("the header is too long");
  const reader = new Reader(header, payload);
  const message = reader.value(1);
  if (reader.position !== header.length) throw new ProtocolError("bytes after the message");
  if (!isMap(message)) throw new ProtocolError("a message is a map");
  if (payload && reader.end !== payload.length) throw new ProtocolError("bytes after the last array");
  return message;
}

const isMap = (value) => value !== null && typeof value === "object" && !Array.isArray(value) && !(value instanceof NdArray);

class Reader {
  constructor(buffer, payload) {
    Object.assign(this, { buffer, payload, position: 0, end: 0, arrays: 0, containers: 0, sawFloat: false });
  }

  value(depth) {
    const byte = this.take(1)[0];
    if (byte < 0x80) return byte;
    if (byte < 0x90) return this.map(byte & 15, depth);
    if (byte < 0xa0) return this.list(byte & 15, depth);
    if (byte < 0xc0) return this.string(byte & 31);
    if (byte >= 0xe0) return byte - 256;
    switch (byte) {
      case 0xc0: return null;
      case 0xc2: return false;
      case 0xc3: return true;
      case 0xca: return this.float(this.take(4).readFloatBE());
      case 0xcb: return this.float(this.take(8).readDoubleBE());
      case 0xcc: case 0xcd: case 0xce: case 0xcf: return this.integer(1 << (byte - 0xcc), false);
      case 0xd0: case 0xd1: case 0xd2: case 0xd3: return this.integer(1 << (byte - 0xd0), true);
      case 0xd4: case 0xd5: case 0xd6: case 0xd7: case 0xd8: return this.array(1 << (byte - 0xd4));
      case 0xc7: case 0xc8: case 0xc9: return this.array(this.size(1 << (byte - 0xc7)));
      case 0xd9: case 0xda: case 0xdb: return this.string(this.size(1 << (byte - 0xd9)));
      case 0xdc: case 0xdd: return this.list(this.size(2 << (byte - 0xdc)), depth);
      case 0xde: case 0xdf: return this.map(this.size(2 << (byte - 0xde)), depth);
      default: throw new ProtocolError(`0x${byte.toString(16)} is not part of this format`);
    }
  }

  take(count) {
    if (this.position + count > this.buffer.length) throw new ProtocolError("the message ends too early");
    this.position += count;
    return this.buffer.subarray(this.position - count, this.position);
  }

  size(bytes) {
    return this.take(bytes).readUIntBE(0, bytes);
  }

  integer(bytes, signed) {
    const wide = this.take(bytes);
    if (bytes < 8) return signed ? wide.readIntBE(0, bytes) : wide.readUIntBE(0, bytes);
    const value = signed ? wide.readBigInt64BE() : wide.readBigUInt64BE();
    return Number.isSafeInteger(Number(value)) ? Number(value) : value;
  }

  float(value) {
    this.sawFloat = true;
    return value;
  }

  string(length) {
    if (length > LIMITS.stringBytes) throw new ProtocolError("a string is too long");
    try {
      return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(this.take(length));
    } catch (error) {
      throw error instanceof ProtocolError ? error : new ProtocolError("a string is not UTF-8");
    }
  }

  enter(length, depth) {
    this.containers += 1;
    if (length > LIMITS.entries || depth > LIMITS.depth || this.containers > LIMITS.containers) {
      throw new ProtocolError("a list or map is too long, too deep, or one too many");
    }
  }

  list(length, depth) {
    this.enter(length, depth);
    return Array.from({ length }, () => this.value(depth + 1));
  }

  map(length, depth) {
    this.enter(length, depth);
    const map = Object.create(null); // "__proto__" is a key like any other
    for (let i = 0; i < length; i += 1) {
      const key = this.value(depth + 1);
      if (typeof key !== "string" || key in map) throw new ProtocolError("a key is no string, or there twice");
      map[key] = this.value(depth + 1);
    }
    return map;
  }

  array(length) {
    const code = this.take(1)[0];
    const inner = new Reader(this.take(length), null);
    this.arrays += 1;
    if (code !== 1 || !this.payload || length > 256 || this.arrays > LIMITS.arrays) throw new ProtocolError("an unknown extension");
    const described = inner.value(1);
    if (!Array.isArray(described) || described.length !== 4 || inner.position !== length) throw new ProtocolError("a bad array");
    const [dtype, shape, offset, byteLength] = described;
    if (typeof dtype !== "string" || !Object.hasOwn(TYPES, dtype)) throw new ProtocolError("an unknown dtype");
    const whole = (number) => Number.isSafeInteger(number) && number >= 0;
    // Some languages tell 1.0 from 1; here both are whole, so the description's own bytes must show no float.
    if (!Array.isArray(shape) || shape.length > LIMITS.axes || ![...shape, offset, byteLength].every(whole) || inner.sawFloat) {
      throw new ProtocolError("a bad shape, offset or length");
    }
    const itemBytes = TYPES[dtype].BYTES_PER_ELEMENT;
    const span = shape.reduce((product, axis) => product * Math.max(axis, 1), itemBytes);
    const needed = shape.reduce((product, axis) => product * axis, itemBytes);
    if (span > 2 ** 32 - 1 || needed !== byteLength) throw new ProtocolError("shape and length contradict each other");
    if (offset !== aligned(this.end) || offset + byteLength > this.payload.length) throw new ProtocolError("an array out of place");
    this.end = offset + byteLength;
    return view(dtype, shape, this.payload.subarray(offset, this.end));
  }
}

function view(dtype, shape, bytes) {
  if (dtype === "bool" && bytes.some((byte) => byte > 1)) throw new ProtocolError("a bool that is neither 0 nor 1");
  const Type = TYPES[dtype];
  const start = bytes.byteOffset % Type.BYTES_PER_ELEMENT === 0 ? bytes : new Uint8Array(bytes); // typed arrays want alignment
  return new NdArray(dtype, shape, new Type(start.buffer, start.byteOffset, bytes.length / Type.BYTES_PER_ELEMENT));
}

// ---- Client over TCP --------------------------------------------------------------------------------------------------

/** One connection: `await NativeClient.connect(host, port)`, then `infer`, `reset`, `ping`, `close`. */
export class NativeClient {
  static async connect(host, port, { token, model } = {}) {
    const client = new NativeClient(net.connect({ host, port, noDelay: true }));
    const hello = { type: "hello", protocol: PROTOCOL };
    if (token) hello.token = token;
    if (model) hello.model = model;
    client.welcome = await client.request(hello);
    client.episode = client.welcome.episode;
    return client;
  }

  constructor(socket) {
    this.socket = socket;
    this.lastId = 0;
    this.waiting = new Map();
    this.received = Buffer.alloc(0);
    socket.on("data", (data) => this.read(data));
    socket.on("error", (error) => this.fail(error));
    socket.on("close", () => this.fail(new Error("the server closed the connection")));
  }

  get spec() {
    return this.welcome.spec;
  }

  /** The chunk for one observation (names to NdArray or string) taken at control step `step` of the episode. */
  async infer(observation, step, { budget_ms } = {}) {
    const { session } = this.welcome;
    const lanes = [{ step, observation }];
    const reply = await this.request({ type: "infer", session, episode: this.episode, budget_ms, lanes });
    const [result] = reply.results;
    if (result.error) throw new RemoteError(result.error);
    return { ...result, timing: { ...reply.timing, ...result.timing } };
  }

  /** A new episode begins: the policy forgets this session's past. */
  async reset() {
    const reply = await this.request({ type: "reset", session: this.welcome.session, episode: this.episode + 1 });
    this.episode = reply.episode;
  }

  /** Round trip in milliseconds, and how far the server's monotonic clock is ahead of ours. */
  async ping() {
    const now_s = () => performance.now() / 1000;
    const pong = await this.request({ type: "ping", sent_s: now_s() });
    const arrived_s = now_s();
    return {
      round_trip_ms: 1000 * (arrived_s - pong.sent_s - (pong.now_s - pong.received_s)),
      clock_offset_ms: 500 * (pong.received_s - pong.sent_s + (pong.now_s - arrived_s)),
    };
  }

  close() {
    this.write({ type: "bye" });
    this.socket.end();
  }

  request(message) {
    this.lastId += 1;
    const { type, ...rest } = message;
    for (const key of Object.keys(rest)) if (rest[key] === undefined) delete rest[key];
    return new Promise((resolve, reject) => {
      this.waiting.set(this.lastId, { resolve, reject });
      this.write({ type, id: this.lastId, ...rest });
    });
  }

  write(message) {
    const frame = encode(message);
    const length = Buffer.alloc(4);
    length.writeUInt32BE(frame.length);
    this.socket.write(Buffer.concat([length, frame]));
  }

  read(data) {
    this.received = Buffer.concat([this.received, data]);
    while (this.received.length >= 4) {
      const length = this.received.readUInt32BE();
      if (length > 64 * 1024 * 1024) return this.socket.destroy(new ProtocolError(`a frame of ${length} bytes is announced`));
      if (this.received.length < 4 + length) return;
      // A copy of its own per frame, so that arrays may be kept.
      const frame = Uint8Array.prototype.slice.call(this.received, 4, 4 + length);
      this.received = this.received.subarray(4 + length);
      try {
        this.handle(decode(frame));
      } catch (error) {
        return this.socket.destroy(error);
      }
    }
  }

  handle(reply) {
    if (reply.type === "error" && (reply.id === undefined || reply.fatal)) {
      this.socket.destroy(new RemoteError(reply)); // fails everything that waits
      return;
    }
    const request = this.waiting.get(reply.id);
    if (request === undefined) return; // an answer to something we no longer wait for
    this.waiting.delete(reply.id);
    if (reply.type === "error") request.reject(new RemoteError(reply));
    else request.resolve(reply);
  }

  fail(error) {
    for (const { reject } of this.waiting.values()) reject(error);
    this.waiting.clear();
  }
}

// ---- Golden vectors ---------------------------------------------------------------------------------------------------

/** A description's plain value as the message it describes: see scripts/make_native_vectors.py. */
function described(value) {
  if (Array.isArray(value)) return value.map(described);
  if (value === null || typeof value !== "object") return value;
  if (!("$array" in value)) {
    return Object.assign(Object.create(null), Object.fromEntries(Object.entries(value).map(([key, one]) => [key, described(one)])));
  }
  const dtype = value.$array;
  const wide = { int64: BigInt, uint64: BigInt, bool: Number, float16: halfBits }[dtype];
  return new NdArray(dtype, value.shape, TYPES[dtype].from(wide ? value.values.map(wide) : value.values));
}

/** The bits of a 16-bit float that represents `value` exactly and is a normal number. */
function halfBits(value) {
  const bits = new Uint32Array(Float32Array.of(value).buffer)[0];
  return ((bits >>> 16) & 0x8000) | (((bits >>> 23) - (bits >>> 31) * 256 - 127 + 15) << 10) | ((bits >>> 13) & 0x3ff);
}

/** Whether both hold the same values; arrays are compared by dtype, shape and bytes. */
function same(left, right) {
  if (left instanceof NdArray && right instanceof NdArray) {
    return left.dtype === right.dtype && isDeepStrictEqual(left.shape, right.shape) && Buffer.compare(left.bytes, right.bytes) === 0;
  }
  if (Array.isArray(left) && Array.isArray(right)) return left.length === right.length && left.every((one, i) => same(one, right[i]));
  if (isMap(left) && isMap(right)) {
    const keys = Object.keys(left);
    return isDeepStrictEqual(keys, Object.keys(right)) && keys.every((key) => same(left[key], right[key]));
  }
  return Object.is(left, right);
}

function checkVector(folder, name) {
  const bytes = readFileSync(join(folder, `${name}.bin`));
  const description = JSON.parse(readFileSync(join(folder, `${name}.json`), "utf8"));
  if (description.error) {
    try {
      decode(bytes);
    } catch (error) {
      return error instanceof ProtocolError ? null : `failed in another way: ${error.stack}`;
    }
    return "was read, although it is malformed";
  }
  const message = described(description.message);
  if (!same(decode(bytes), message)) return "was read as something else";
  if (description.from === "client" && Buffer.compare(encode(message), bytes) !== 0) return "was written with other bytes";
  return null;
}

function check(folder) {
  const names = readdirSync(folder).filter((file) => file.endsWith(".bin")).map((file) => file.slice(0, -4)).sort();
  const failures = names.map((name) => [name, checkVector(folder, name)]).filter(([, why]) => why !== null);
  for (const [name, why] of failures) console.log(`${name}: ${why}`);
  console.log(`${names.length - failures.length} of ${names.length} vectors agree`);
  return failures.length === 0 && names.length > 0;
}

// ---- Command line -----------------------------------------------------------------------------------------------------

/** A valid observation of zeros: what a real client would fill from its sensors. */
function zeros(spec) {
  const observation = {};
  for (const [key, field] of Object.entries(spec.observation ?? {})) {
    observation[key] = field.dtype === "str" ? "" : new NdArray(field.dtype, field.shape.map((axis) => axis ?? 1));
  }
  return observation;
}

async function ask(host, port, model) {
  const client = await NativeClient.connect(host, port, { token: process.env.ACTLINK_TOKEN, model });
  try {
    await show(client);
  } finally {
    client.close();
  }
}

async function show(client) {
  const { name, action_horizon, observation } = client.spec;
  console.log(`${client.welcome.server}: policy ${name || "(no name)"}, chunks of ${action_horizon} actions`);
  console.log(`observation: ${Object.keys(observation ?? {}).join(", ")}`);
  const { round_trip_ms } = await client.ping();
  console.log(`ping ${round_trip_ms.toFixed(2)} ms`);
  const chunk = await client.infer(zeros(client.spec), 0, { budget_ms: 10000 });
  console.log(`step ${chunk.step}: actions ${chunk.actions.dtype} (${chunk.actions.shape.join(", ")})`);
  console.log(`first action: ${Array.from(chunk.actions.data.slice(0, chunk.actions.shape[1])).join(" ")}`);
  await client.reset();
}

async function main([first, second, model]) {
  if (first === "--check" && second) return check(second);
  if (!first || !second) {
    console.error("usage: node native_client.mjs HOST PORT [MODEL] | --check FOLDER");
    return false;
  }
  await ask(first, Number(second), model);
  return true;
}

if (process.argv[1] && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  main(process.argv.slice(2)).then(
    (ok) => { process.exitCode = ok ? 0 : 1; },
    (error) => { console.error(error.message); process.exitCode = 1; },
  );
}
