// What a Node peer's jobs note down, in the files that the benchmark reads: as the benchmark's own jobs do.
import fs from "node:fs";

const folder = process.env.STARFORGE_BENCH_FOLDER;
const FLUSH_MS = 10;
const count = { file: open("count"), buffer: Buffer.alloc(8), value: 0n, written: -1n };
const first = { file: open("first"), buffer: Buffer.alloc(8), value: 0 };

function open(name) {
  const file = fs.openSync(`${folder}/${name}-${process.pid}`, "w+");
  fs.writeSync(file, Buffer.alloc(8), 0, 8, 0);
  return file;
}

function now() {
  return Number(process.hrtime.bigint()) / 1e9;
}

let jobs = 0;

export function counted() {
  jobs += 1;
  if (first.value === 0) {
    first.value = now();
    first.buffer.writeDoubleLE(first.value);
    fs.writeSync(first.file, first.buffer, 0, 8, 0);
  }
}

setInterval(() => {
  if (BigInt(jobs) === count.written) return;
  count.written = BigInt(jobs);
  count.buffer.writeBigUInt64LE(count.written);
  fs.writeSync(count.file, count.buffer, 0, 8, 0);
}, FLUSH_MS).unref();

const pickups = fs.openSync(`${folder}/pickups`, "a");

export function markPickup(number) {
  const at = wall();
  const record = Buffer.alloc(12);
  record.writeUInt32LE(number, 0);
  record.writeDoubleLE(at, 4);
  fs.writeSync(pickups, record, 0, 12);
}

// Date.now() counts whole milliseconds, which is too coarse here.
export function wall() {
  return (performance.timeOrigin + performance.now()) / 1000;
}

// The benchmark halts its workers while it enqueues.
process.on("SIGCONT", () => {
  first.value = 0;
});

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
