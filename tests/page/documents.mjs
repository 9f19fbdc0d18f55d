// Looks at documents in Chromium as people do who read them: pages of the book, and reports of loadtest with the pointer
// over a plot and in print.
//
//     node documents.mjs FOLDER BOOK REPORT...
//
// Writes screenshots, a PDF of each report and seen.json to FOLDER, prints what was seen, and exits 1 if axe-core finds a
// serious fault, something is wider than the window, text of a plot is cut off, or a plot does not follow the pointer.

import { basename } from "node:path";
import { pathToFileURL } from "node:url";
import { SCHEMES, WIDTHS, say, start } from "./browser.mjs";

const [folder, book, ...reports] = process.argv.slice(2);
const CHAPTERS = { index: "index.html", install: "docs/install.html", concepts: "docs/concepts.html", kas: "docs/reference/kas.html", "load-balancers": "docs/load-balancers.html", troubleshooting: "docs/troubleshooting.html" };
/** What is left of A4 between margins, in mm and in CSS pixels. */
const PAPER = { format: "A4", margin: { top: "12mm", right: "12mm", bottom: "12mm", left: "12mm" } };
const PAPER_WIDTH = 703;
/** Pixels that letters in a plot have at least. */
const LEAST_LETTER = 8;

const browser = await start(folder);

/** Opens a file, shoots all of it, and looks whether it is as it should be. */
async function show(tab, file, name) {
  await tab.goto(pathToFileURL(file).href);
  await tab.waitForLoadState("load");
  await browser.shoot(tab, name, { fullPage: true });
  await browser.fits(tab, name);
  await browser.axe(tab, name);
}

/** The book is more than its text: keys close and open its contents, and code has its colours. */
async function works(tab, name) {
  const toggle = tab.locator("#mdbook-sidebar-toggle");
  const shown = () => tab.evaluate(() => {
    const contents = document.getElementById("mdbook-sidebar");
    return contents.getAttribute("aria-hidden") !== "true" && !contents.inert;
  });
  const before = await shown();
  for (const wanted of [!before, before]) {
    await toggle.press("Enter");
    if (await shown() !== wanted) browser.faults.push(`${name}: a key does not ${wanted ? "open" : "close"} the contents`);
  }
  if (await tab.locator("code.hljs").count() === 0) browser.faults.push(`${name}: code has no colours`);
}

/** Texts of plots have to be whole, and large enough to be read. */
async function legible(tab, name) {
  const found = await tab.evaluate((least) => [...document.querySelectorAll("svg[data-span]")].flatMap((svg) => {
    const box = svg.getBoundingClientRect();
    const shown = box.width / svg.viewBox.baseVal.width;
    return [...svg.querySelectorAll("text")].flatMap((text) => {
      const it = text.getBoundingClientRect(), size = parseFloat(getComputedStyle(text).fontSize) * shown;
      const out = box.left - 1 > it.left || it.right > box.right + 1 || box.top - 1 > it.top || it.bottom > box.bottom + 1;
      const where = `“${text.lastChild.textContent}” in “${svg.getAttribute("aria-label")}”`;
      return [...(out ? [`${where} is cut off`] : []), ...(least > size ? [`${where} is ${size.toFixed(1)} px small`] : [])];
    });
  }), LEAST_LETTER);
  browser.faults.push(...found.map((it) => `${name}: ${it}`));
}

/** The line under the pointer, as each plot of the first run that has the same axis shows it. */
const crosses = (tab) => tab.evaluate(() => {
  const run = document.querySelector("svg[data-span]").closest("article, section");
  const plots = [...run.querySelectorAll("svg[data-span]")];
  const alike = plots.filter((it) => it.dataset.span === plots[0].dataset.span);
  const shown = (svg) => {
    const { left, right } = svg.dataset, cross = svg.querySelector(".cross");
    return { visible: getComputedStyle(cross).visibility === "visible", part: (cross.getAttribute("x1") - left) / (right - left), said: svg.closest("figure").querySelector("output").textContent };
  };
  return alike.map(shown);
});

/** The pointer over one plot, and the arrow keys in it, show the same moment in all plots of the run. */
async function pointed(tab, name) {
  const plot = tab.locator("svg[data-span]").first();
  // A table of `bench-compare` that was made in parts has none.
  if (await plot.count() === 0) return say(`${name}: no plots`);
  await plot.scrollIntoViewIfNeeded();
  const box = await plot.boundingBox();
  const together = async (how) => {
    const seen = await crosses(tab), [first] = seen;
    const apart = seen.filter((it) => !it.visible || Math.abs(it.part - first.part) > 0.005 || it.said !== first.said);
    if (apart.length > 0 || !first.said.startsWith("at ")) browser.faults.push(`${name}: ${how}, ${apart.length} of ${seen.length} plots show another moment than “${first.said}”`);
    return `${seen.length} plots ${first.said}`;
  };
  const hidden = async (how) => {
    const left = (await crosses(tab)).filter((it) => it.visible).length;
    if (left > 0) browser.faults.push(`${name}: ${how}, ${left} plots still show a moment`);
  };
  await tab.mouse.move(box.x + box.width * 0.55, box.y + box.height / 2);
  const told = await together("under the pointer");
  await browser.shoot(tab, `${name}-pointer`);
  await tab.mouse.move(0, 0);
  await hidden("when the pointer has left");
  await plot.focus();
  await tab.keyboard.press("ArrowRight");
  say(`${name}: ${told} under the pointer, ${await together("by the arrow keys")} by the arrow keys`);
  await plot.blur();
  await hidden("without the focus");
}

async function print(tab, name) {
  await tab.setViewportSize({ width: PAPER_WIDTH, height: 1_000 });
  await tab.emulateMedia({ media: "print" });
  await browser.shoot(tab, `${name}-print`, { fullPage: true });
  await browser.fits(tab, `${name} in print`);
  await legible(tab, `${name} in print`);
  await tab.pdf({ path: browser.file(`${name}.pdf`), ...PAPER });
}

await browser.conclude(async () => {
  for (const width of WIDTHS) {
    for (const scheme of SCHEMES) {
      const tab = await browser.open(width, scheme);
      for (const [chapter, file] of Object.entries(CHAPTERS)) await show(tab, `${book}/${file}`, `book-${chapter}-${width}-${scheme}`);
      await works(tab, `the book at ${width} px, ${scheme}`);
      for (const report of reports) {
        const name = `${basename(report, ".html")}-${width}-${scheme}`;
        await show(tab, report, name);
        await legible(tab, name);
        await pointed(tab, name);
      }
      await tab.context().close();
    }
  }
  for (const report of reports) {
    // Paper is white, whatever the screen is.
    const tab = await browser.open(1280, "dark");
    await tab.goto(pathToFileURL(report).href);
    await print(tab, basename(report, ".html"));
    await tab.context().close();
  }
});
