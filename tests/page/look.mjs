// Looks at the page of operators in Chromium, as people do who have many clusters: every view at the width of a phone
// and of a desk, light and dark, with axe-core; then all rows of the list, scrolled from the top to the bottom.
//
//     node look.mjs PAGE FOLDER CLUSTERS
//
// Writes screenshots and seen.json to FOLDER, prints what was seen, and exits 1 if axe-core finds a serious fault, the
// page complains, or clusters are missing. How fast it was is printed and no reason to fail: that depends on the machine.

import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

const [page, folder, wanted] = [process.argv[2], process.argv[3], Number(process.argv[4])];
const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const WIDTHS = [390, 1280];
const SCHEMES = ["light", "dark"];
const VIEWS = { clusters: "", gone: "#/disconnected", cluster: "#/clusters/1", sessions: "#/sessions", access: "#/access", replicas: "#/replicas", requests: "#/requests", add: "#/add" };
/** Impacts of axe-core's that must not be. */
const SERIOUS = ["serious", "critical"];
/** Milliseconds that a fleet may take to connect, and any one thing on the page. */
const CONNECT_TIMEOUT = 600_000;
const AWAY_TIMEOUT = 60_000;
const TIMEOUT = 120_000;
/** Pixels of one turn of the wheel, and turns that are measured at most: the list of a phone is long. */
const WHEEL = 1_200;
const MAX_TURNS = 1_000;
/** Rows that axe-core looks at in all respects; contrast of ten thousand equal ones tells nothing new. */
const ALL_RULES_ROWS = 500;

const faults = [];
const seen = { shots: [], axe: [], lists: [], scrolled: [] };
const say = (words) => console.log(words);

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM || "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});

async function open(width, scheme) {
  const context = await browser.newContext({ viewport: { width, height: width < 600 ? 844 : 800 }, colorScheme: scheme, reducedMotion: "reduce" });
  const tab = await context.newPage();
  tab.setDefaultTimeout(TIMEOUT);
  tab.on("console", (message) => message.type() === "error" && faults.push(`the page at ${width} px: ${message.text()}`));
  tab.on("pageerror", (error) => faults.push(`the page at ${width} px: ${error}`));
  return tab;
}

/** Opens a view, and waits until it has what it asked for. */
async function show(tab, view) {
  await tab.goto(`${page}${view}`);
  // The same document at another hash is not loaded again, as when somebody follows a link.
  await tab.waitForSelector("#headline h1");
  await tab.waitForLoadState("networkidle", { timeout: 8_000 }).catch(() => {});
  await tab.waitForFunction(() => !document.getElementById("main").textContent.includes("Asking "));
}

async function axe(tab, name, rules) {
  await tab.evaluate(AXE);
  const options = { resultTypes: ["violations"], ...rules };
  const { violations, passes } = await tab.evaluate((it) => window.axe.run(document, it), options);
  const told = violations.map(({ id, impact, nodes }) => ({ id, impact, nodes: nodes.length, first: nodes[0]?.html.slice(0, 200) }));
  seen.axe.push({ name, violations: told, passes: passes.length });
  for (const { id, impact, nodes, first } of told) {
    const words = `axe-core, ${name}: ${id} (${impact}), ${nodes} times, such as ${first}`;
    say(`  ${words}`);
    if (SERIOUS.includes(impact)) faults.push(words);
  }
}

async function shoot(tab, name) {
  await tab.screenshot({ path: `${folder}/${name}.png` });
  seen.shots.push(`${name}.png`);
}

/** What is wider than the window scrolls the whole page sideways. */
async function fits(tab, name) {
  const over = await tab.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  if (over > 0) faults.push(`${name} is ${over} px wider than the window`);
}

/** Waits until as many clusters are connected as were wanted. */
async function connected() {
  const began = Date.now();
  let answered = began;
  for (;;) {
    const answer = await fetch(new URL("v1/status", page)).then((it) => it.json()).catch(() => undefined);
    if (answer) answered = Date.now();
    if (Date.now() - answered > AWAY_TIMEOUT) throw new Error("the page does not answer any more");
    if (answer?.agents_connected >= wanted) return say(`${answer.agents_connected} clusters are connected after ${((Date.now() - began) / 1000).toFixed(0)} s`);
    if (Date.now() - began > CONNECT_TIMEOUT) throw new Error(`${answer?.agents_connected} of ${wanted} clusters are connected`);
    await new Promise((done) => setTimeout(done, 1_000));
  }
}

const at = (sorted, share) => sorted[Math.min(sorted.length - 1, Math.ceil(sorted.length * share) - 1)] ?? 0;

/** How long lists took that the page asked for, and how large they were. */
async function lists(tab, name) {
  const asked = await tab.evaluate(() => performance.getEntriesByType("resource")
    .filter((it) => /\/v1\/agents\?/.test(it.name)).map(({ duration, transferSize, decodedBodySize }) => ({ duration, transferSize, decodedBodySize })));
  const took = asked.map((it) => it.duration).sort((a, b) => a - b);
  const told = { name, lists: took.length, p50_ms: at(took, 0.5), p99_ms: at(took, 0.99), page_bytes: Math.max(0, ...asked.map((it) => it.decodedBodySize)) };
  seen.lists.push(told);
  say(`${name}: ${told.lists} lists, p50 ${told.p50_ms.toFixed(0)} ms, p99 ${told.p99_ms.toFixed(0)} ms with the queue in the browser, ${(told.page_bytes / 1024).toFixed(0)} KiB the largest page`);
}

/** Shows all rows, and scrolls through them. */
async function scroll(width) {
  const tab = await open(width, "light");
  await show(tab, "");
  const more = tab.locator(".more button");
  await tab.waitForSelector("tbody tr");
  while (await more.isVisible()) {
    const before = await tab.locator("tbody tr").count();
    await more.click().catch(() => {});
    await tab.waitForFunction((rows) => document.querySelectorAll("tbody tr").length > rows || document.querySelector(".more button").hidden, before);
  }
  const rows = await tab.locator("tbody tr").count();
  if (rows < wanted) faults.push(`${rows} of ${wanted} clusters have rows at ${width} px`);
  await lists(tab, `all rows at ${width} px`);
  await tab.evaluate(() => {
    window.gaps = [];
    let last = performance.now();
    const frame = (now) => { window.gaps.push(now - last); last = now; requestAnimationFrame(frame); };
    requestAnimationFrame(frame);
  });
  await tab.mouse.move(width / 2, 400);
  await shoot(tab, `scrolled-top-${width}`);
  const bottom = () => tab.evaluate(() => scrollY + innerHeight >= document.documentElement.scrollHeight - 2);
  let turns = 0;
  while (turns < MAX_TURNS && !(await bottom())) {
    await tab.mouse.wheel(0, WHEEL);
    turns += 1;
    if (turns === 200) await shoot(tab, `scrolled-middle-${width}`);
  }
  const gaps = (await tab.evaluate(() => window.gaps)).sort((a, b) => a - b);
  await tab.evaluate(() => scrollTo(0, document.documentElement.scrollHeight));
  await shoot(tab, `scrolled-bottom-${width}`);
  const heap = await tab.evaluate(() => performance.memory?.usedJSHeapSize ?? 0);
  const told = { width, rows, turns, frames: gaps.length, p50_ms: at(gaps, 0.5), p99_ms: at(gaps, 0.99), longest_ms: at(gaps, 1), heap_mib: heap / 2 ** 20 };
  seen.scrolled.push(told);
  say(`${rows} rows at ${width} px, ${turns} turns of the wheel: frames ${told.p50_ms.toFixed(0)} ms at p50, ${told.p99_ms.toFixed(0)} ms at p99, ${told.longest_ms.toFixed(0)} ms the longest; ${told.heap_mib.toFixed(0)} MiB of JavaScript`);
  await tab.evaluate(() => scrollTo(0, 0));
  const rules = rows > ALL_RULES_ROWS ? { rules: { "color-contrast": { enabled: false } } } : {};
  await axe(tab, `all ${rows} rows at ${width} px${rows > ALL_RULES_ROWS ? ", without contrast" : ""}`, rules);
  const began = Date.now();
  await tab.keyboard.press("/");
  const part = (await tab.locator("tbody tr a").last().textContent()).slice(-3);
  await tab.keyboard.type(part);
  if (rows > 1) await tab.waitForFunction((before) => document.querySelectorAll("tbody tr").length !== before, rows).catch(() => {});
  say(`filtered by ${part} to ${await tab.locator("tbody tr").count()} rows after ${Date.now() - began} ms, of which 200 ms wait for more keys`);
  await shoot(tab, `filtered-${width}`);
  await tab.keyboard.press("Escape");
  for (const key of ["j", "j", "k"]) await tab.keyboard.press(key);
  const stands = await tab.evaluate(() => document.activeElement?.closest("tbody tr") !== null);
  if (!stands) faults.push(`j and k lead to no row at ${width} px`);
  await tab.context().close();
}

try {
  await connected();
  for (const width of WIDTHS) {
    for (const scheme of SCHEMES) {
      const tab = await open(width, scheme);
      for (const [view, address] of Object.entries(VIEWS)) {
        const name = `${view}-${width}-${scheme}`;
        await show(tab, address);
        await shoot(tab, name);
        await fits(tab, name);
        await axe(tab, name, {});
      }
      await lists(tab, `views at ${width} px, ${scheme}`);
      await tab.context().close();
    }
    await scroll(width);
  }
} catch (error) {
  faults.push(String(error));
} finally {
  await browser.close();
}
writeFileSync(`${folder}/seen.json`, JSON.stringify({ ...seen, faults }, undefined, 1));
say(`${seen.shots.length} screenshots in ${folder}; axe-core has looked ${seen.axe.length} times`);
for (const fault of new Set(faults)) say(`FAULT: ${fault}`);
say(faults.length === 0 ? "no serious fault" : `${new Set(faults).size} faults`);
process.exitCode = faults.length === 0 ? 0 : 1;
