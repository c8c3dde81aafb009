// pg-boss's side of the comparison: set up, enqueue, time pick-ups, work. In an environment of its own.
import { createRequire } from "node:module";
import { counted, markPickup, sleep, wall } from "./marking.mjs";

const require = createRequire(`${process.env.STARFORGE_BENCH_MODULES}/`);
const module = require("pg-boss");
const PgBoss = module.PgBoss ?? module;

const BATCH = 10000;
const EVERY_MS = 20;
// Its work() polls: many jobs at a time, at the shortest interval it accepts, by several workers.
const WORKERS = 4;
const BATCH_SIZE = 5000;
const INTERVAL_S = 0.5;

const boss = new PgBoss({
  connectionString: process.env.DATABASE_URL,
  supervise: false,
  schedule: false,
});
boss.on("error", (error) => console.error(error));

async function enqueue(jobs) {
  const batches = [];
  for (let from = 0; from < jobs; from += BATCH) {
    const size = Math.min(BATCH, jobs - from);
    batches.push(Array.from({ length: size }, (_, i) => ({ name: "noop", data: { n: from + i } })));
  }
  const started = performance.now();
  for (const batch of batches) await boss.insert(batch);
  return (performance.now() - started) / 1000;
}

async function pickups(jobs) {
  const sent = [];
  for (let n = 0; n < jobs; n += 1) {
    await boss.send("pickup", { n });
    sent.push(wall());
    await sleep(EVERY_MS);
  }
  return sent;
}

async function work() {
  const options = { pollingIntervalSeconds: INTERVAL_S, batchSize: BATCH_SIZE };
  for (let worker = 0; worker < WORKERS; worker += 1) {
    await boss.work("noop", options, (jobs) => Promise.all(jobs.map(async () => counted())));
  }
  await boss.work("pickup", options, async (jobs) => {
    for (const job of jobs) markPickup(job.data.n);
  });
}

const [command, count] = process.argv.slice(2);
await boss.start();
if (command === "setup") {
  await boss.createQueue("noop");
  await boss.createQueue("pickup");
} else if (command === "enqueue") {
  console.log(JSON.stringify(await enqueue(Number(count))));
} else if (command === "pickups") {
  console.log(JSON.stringify(await pickups(Number(count))));
} else {
  await work();
  await new Promise(() => {});
}
await boss.stop({ graceful: false });
