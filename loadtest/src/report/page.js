"use strict";
// Values under the pointer, in all plots of a run at once. Arrow keys move it in the plot that has the focus.
for (const run of document.querySelectorAll("article, section")) {
  const plots = Array.from(run.querySelectorAll("svg[data-span]"), (svg) => {
    const data = svg.dataset, figure = svg.closest("figure"), said = figure.querySelectorAll("li span");
    const lines = Array.from(svg.querySelectorAll("path[data-points]"), (path, place) => ({
      points: path.dataset.points ? path.dataset.points.split(" ").map(Number) : [],
      said: said[place],
      rest: said[place].textContent,
    }));
    return {svg, lines, width: +data.width, left: +data.left, right: +data.right, span: +data.span, gap: +data.gap,
      over: data.over, cross: svg.querySelector(".cross"), output: figure.querySelector("output")};
  });
  let now = null;
  const near = (points, at, gap) => {
    let best = NaN, away = gap;
    for (let place = 0; points.length > place; place += 2) {
      const distance = Math.abs(points[place] - at);
      if (away >= distance) [best, away] = [points[place + 1], distance];
    }
    return best;
  };
  const show = (at, span) => {
    now = at;
    // Plots over other sizes than this one are left alone.
    for (const plot of plots.filter((it) => it.span === span)) {
      const x = plot.left + (plot.right - plot.left) * at / plot.span;
      plot.cross.setAttribute("x1", x);
      plot.cross.setAttribute("x2", x);
      plot.cross.classList.add("shown");
      plot.output.textContent = "at " + Number(at.toPrecision(3)) + plot.over;
      for (const line of plot.lines) {
        const value = near(line.points, at, plot.gap);
        line.said.textContent = Number.isNaN(value) ? "–" : String(value);
      }
    }
  };
  const hide = () => {
    now = null;
    for (const plot of plots) {
      plot.cross.classList.remove("shown");
      plot.output.textContent = "";
      for (const line of plot.lines) line.said.textContent = line.rest;
    }
  };
  for (const plot of plots) {
    const point = (event) => {
      const box = plot.svg.getBoundingClientRect();
      const x = (event.clientX - box.left) / box.width * plot.width;
      const part = (x - plot.left) / (plot.right - plot.left);
      show(Math.min(Math.max(part, 0), 1) * plot.span, plot.span);
    };
    plot.svg.addEventListener("pointermove", point);
    plot.svg.addEventListener("pointerdown", point);
    plot.svg.addEventListener("pointerleave", hide);
    plot.svg.addEventListener("blur", hide);
    plot.svg.addEventListener("keydown", (event) => {
      const way = {ArrowLeft: -1, ArrowRight: 1}[event.key];
      if (!way) return;
      event.preventDefault();
      const at = (now === null ? plot.span / 2 : now) + way * plot.span / 100;
      show(Math.min(Math.max(at, 0), plot.span), plot.span);
    });
  }
}
