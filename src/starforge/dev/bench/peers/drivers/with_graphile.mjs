// graphile-worker's side of the comparison: set up, enqueue, time pick-ups, work. In an environment of its own.
import { createRequire } from "node:module";
import { counted, markPickup, sleep, wall } from "./marking.mjs";

const require = createRequire(`${process.env.STARFORGE_BENCH_MODULES}/`);
const { Logger, makeWorkerUtils, run } = require("graphile-worker");

const BATCH = 10000;
const EVERY_MS = 20;
const connectionString = process.env.DATABASE_URL;
const logger = new Logger(() => () => {});

// The preset of its page on performance.
const preset = {
  worker: {
    connectionString,
    concurrentJobs: 24,
    maxPoolSize: 25,
    localQueue: { size: 500 },
    completeJobBatchDelay: 0,
    failJobBatchDelay: 0,
  },
};

async function utils(use) {
  const made = await makeWorkerUtils({ connectionString, logger });
  try {
    return await use(made);
  } finally {
    await made.release();
  }
}

async function enqueue(made, jobs) {
  const batches = [];
  for (let from = 0; from < jobs; from += BATCH) {
    const size = Math.min(BATCH, jobs - from);
    batches.push(Array.from({ length: size }, (_, i) => ({ identifier: "noop", payload: { n: from + i } })));
  }
  const started = performance.now();
  for (const batch of batches) await made.addJobs(batch);
  return (performance.now() - started) / 1000;
}

async function pickups(made, jobs) {
  const sent = [];
  for (let n = 0; n < jobs; n += 1) {
    await made.addJob("pickup", { n });
    sent.push(wall());
    await sleep(EVERY_MS);
  }
  return sent;
}

const [command, count] = process.argv.slice(2);
if (command === "setup") {
  await utils((made) => made.migrate());
} else if (command === "enqueue") {
  console.log(JSON.stringify(await utils((made) => enqueue(made, Number(count)))));
} else if (command === "pickups") {
  console.log(JSON.stringify(await utils((made) => pickups(made, Number(count)))));
} else {
  const taskList = { noop: async () => counted(), pickup: async ({ n }) => markPickup(n) };
  const runner = await run({ preset, logger, taskList });
  await runner.promise;
}
