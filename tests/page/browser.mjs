// A page in Chromium, as people see it: at the width of a phone and of a desk, light and dark, with axe-core.

import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
/** Impacts of axe-core's that must not be. */
const SERIOUS = ["serious", "critical"];
/** Milliseconds that any one thing on a page may take. */
const TIMEOUT = 120_000;

export const WIDTHS = [390, 1280];
export const SCHEMES = ["light", "dark"];
export const say = (words) => console.log(words);

/** Starts Chromium; screenshots and seen.json go to `folder`. */
export async function start(folder) {
  const chrome = await chromium.launch({
    executablePath: process.env.CHROMIUM || "/usr/bin/chromium",
    args: ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
  });
  return new Browser(chrome, folder);
}

class Browser {
  /** What must not be, in words; whoever looks adds to it. */
  faults = [];
  seen = { shots: [], axe: [] };
  #chrome;
  #folder;

  constructor(chrome, folder) {
    this.#chrome = chrome;
    this.#folder = folder;
  }

  async open(width, scheme) {
    const context = await this.#chrome.newContext({ viewport: { width, height: width < 600 ? 844 : 800 }, colorScheme: scheme, reducedMotion: "reduce" });
    const tab = await context.newPage();
    tab.setDefaultTimeout(TIMEOUT);
    tab.on("console", (message) => message.type() === "error" && this.faults.push(`the page at ${width} px: ${message.text()}`));
    tab.on("pageerror", (error) => this.faults.push(`the page at ${width} px: ${error}`));
    return tab;
  }

  /** Where a file of this run belongs. */
  file(name) {
    return `${this.#folder}/${name}`;
  }

  async shoot(tab, name, options = {}) {
    await tab.screenshot({ path: this.file(`${name}.png`), ...options });
    this.seen.shots.push(`${name}.png`);
  }

  /** What is wider than the window scrolls the whole page sideways. */
  async fits(tab, name) {
    const over = await tab.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
    if (over > 0) this.faults.push(`${name} is ${over} px wider than the window`);
  }

  /** Has axe-core look at the page. */
  async axe(tab, name, rules = {}) {
    await tab.evaluate(AXE);
    // Style sheets that are asked for again would be refused where the page is a file.
    const options = { resultTypes: ["violations"], preload: false, ...rules };
    const { violations, passes } = await tab.evaluate((it) => window.axe.run(document, it), options);
    const told = violations.map(({ id, impact, nodes }) => ({ id, impact, nodes: nodes.length, first: nodes[0]?.html.slice(0, 200) }));
    this.seen.axe.push({ name, violations: told, passes: passes.length });
    for (const { id, impact, nodes, first } of told) {
      const words = `axe-core, ${name}: ${id} (${impact}), ${nodes} times, such as ${first}`;
      say(`  ${words}`);
      if (SERIOUS.includes(impact)) this.faults.push(words);
    }
  }

  /** Looks until the end or an error, which is a fault too; then says what was seen. */
  async conclude(look) {
    try {
      await look();
    } catch (error) {
      this.faults.push(String(error));
    } finally {
      await this.#chrome.close();
    }
    const faults = new Set(this.faults);
    writeFileSync(this.file("seen.json"), JSON.stringify({ ...this.seen, faults: [...faults] }, undefined, 1));
    say(`${this.seen.shots.length} screenshots in ${this.#folder}; axe-core has looked ${this.seen.axe.length} times`);
    for (const fault of faults) say(`FAULT: ${fault}`);
    say(faults.size === 0 ? "no serious fault" : `${faults.size} faults`);
    process.exitCode = faults.size === 0 ? 0 : 1;
  }
}
