// Looks at the page of operators in Chromium, as people do who have many clusters: every view at the width of a phone
// and of a desk, light and dark, with axe-core; then all rows of the list, scrolled from the top to the bottom.
//
//     node look.mjs PAGE FOLDER CLUSTERS
//
// Writes screenshots and seen.json to FOLDER, prints what was seen, and exits 1 if axe-core finds a serious fault, the
// page complains, or clusters are missing. How fast it was is printed and no reason to fail: that depends on the machine.

import { SCHEMES, WIDTHS, say, start } from "./browser.mjs";

const [page, folder, wanted] = [process.argv[2], process.argv[3], Number(process.argv[4])];
const VIEWS = { clusters: "", gone: "#/disconnected", cluster: "#/clusters/1", sessions: "#/sessions", access: "#/access", replicas: "#/replicas", requests: "#/requests", add: "#/add" };
/** Milliseconds that a fleet may take to connect, and that the page may be away meanwhile. */
const CONNECT_TIMEOUT = 600_000;
const AWAY_TIMEOUT = 60_000;
/** Pixels of one turn of the wheel, and turns that are measured at most: the list of a phone is long. */
const WHEEL = 1_200;
const MAX_TURNS = 1_000;
/** Rows that axe-core looks at in all respects; contrast of ten thousand equal ones tells nothing new. */
const ALL_RULES_ROWS = 500;

const browser = await start(folder);
Object.assign(browser.seen, { lists: [], scrolled: [] });

/** Opens a view, and waits until it has what it asked for. */
async function show(tab, view) {
  await tab.goto(`${page}${view}`);
  // The same document at another hash is not loaded again, as when somebody follows a link.
  await tab.waitForSelector("#headline h1");
  await tab.waitForLoadState("networkidle", { timeout: 8_000 }).catch(() => {});
  await tab.waitForFunction(() => !document.getElementById("main").textContent.includes("Asking "));
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
  browser.seen.lists.push(told);
  say(`${name}: ${told.lists} lists, p50 ${told.p50_ms.toFixed(0)} ms, p99 ${told.p99_ms.toFixed(0)} ms with the queue in the browser, ${(told.page_bytes / 1024).toFixed(0)} KiB the largest page`);
}

/** Shows all rows, and scrolls through them. */
async function scroll(width) {
  const tab = await browser.open(width, "light");
  await show(tab, "");
  const more = tab.locator(".more button");
  await tab.waitForSelector("tbody tr");
  while (await more.isVisible()) {
    const before = await tab.locator("tbody tr").count();
    await more.click().catch(() => {});
    await tab.waitForFunction((rows) => document.querySelectorAll("tbody tr").length > rows || document.querySelector(".more button").hidden, before);
  }
  const rows = await tab.locator("tbody tr").count();
  if (rows < wanted) browser.faults.push(`${rows} of ${wanted} clusters have rows at ${width} px`);
  await lists(tab, `all rows at ${width} px`);
  await tab.evaluate(() => {
    window.gaps = [];
    let last = performance.now();
    const frame = (now) => { window.gaps.push(now - last); last = now; requestAnimationFrame(frame); };
    requestAnimationFrame(frame);
  });
  await tab.mouse.move(width / 2, 400);
  await browser.shoot(tab, `scrolled-top-${width}`);
  const bottom = () => tab.evaluate(() => scrollY + innerHeight >= document.documentElement.scrollHeight - 2);
  let turns = 0;
  while (turns < MAX_TURNS && !(await bottom())) {
    await tab.mouse.wheel(0, WHEEL);
    turns += 1;
    if (turns === 200) await browser.shoot(tab, `scrolled-middle-${width}`);
  }
  const gaps = (await tab.evaluate(() => window.gaps)).sort((a, b) => a - b);
  await tab.evaluate(() => scrollTo(0, document.documentElement.scrollHeight));
  await browser.shoot(tab, `scrolled-bottom-${width}`);
  const heap = await tab.evaluate(() => performance.memory?.usedJSHeapSize ?? 0);
  const told = { width, rows, turns, frames: gaps.length, p50_ms: at(gaps, 0.5), p99_ms: at(gaps, 0.99), longest_ms: at(gaps, 1), heap_mib: heap / 2 ** 20 };
  browser.seen.scrolled.push(told);
  say(`${rows} rows at ${width} px, ${turns} turns of the wheel: frames ${told.p50_ms.toFixed(0)} ms at p50, ${told.p99_ms.toFixed(0)} ms at p99, ${told.longest_ms.toFixed(0)} ms the longest; ${told.heap_mib.toFixed(0)} MiB of JavaScript`);
  await tab.evaluate(() => scrollTo(0, 0));
  const rules = rows > ALL_RULES_ROWS ? { rules: { "color-contrast": { enabled: false } } } : {};
  await browser.axe(tab, `all ${rows} rows at ${width} px${rows > ALL_RULES_ROWS ? ", without contrast" : ""}`, rules);
  const began = Date.now();
  await tab.keyboard.press("/");
  const part = (await tab.locator("tbody tr a").last().textContent()).slice(-3);
  await tab.keyboard.type(part);
  if (rows > 1) await tab.waitForFunction((before) => document.querySelectorAll("tbody tr").length !== before, rows).catch(() => {});
  say(`filtered by ${part} to ${await tab.locator("tbody tr").count()} rows after ${Date.now() - began} ms, of which 200 ms wait for more keys`);
  await browser.shoot(tab, `filtered-${width}`);
  await tab.keyboard.press("Escape");
  for (const key of ["j", "j", "k"]) await tab.keyboard.press(key);
  const stands = await tab.evaluate(() => document.activeElement?.closest("tbody tr") !== null);
  if (!stands) browser.faults.push(`j and k lead to no row at ${width} px`);
  await tab.context().close();
}

await browser.conclude(async () => {
  await connected();
  for (const width of WIDTHS) {
    for (const scheme of SCHEMES) {
      const tab = await browser.open(width, scheme);
      for (const [view, address] of Object.entries(VIEWS)) {
        const name = `${view}-${width}-${scheme}`;
        await show(tab, address);
        await browser.shoot(tab, name);
        await browser.fits(tab, name);
        await browser.axe(tab, name);
      }
      await lists(tab, `views at ${width} px, ${scheme}`);
      await tab.context().close();
    }
    await scroll(width);
  }
});
