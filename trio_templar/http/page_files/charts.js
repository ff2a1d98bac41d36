// The four charts: a number that is now, and a line of the last minutes. uPlot draws; it is a plain script (`uPlot`).

import { make, setText } from "./dom.js";
import * as numbers from "./numbers.js";
import { SPAN_SECONDS } from "./samples.js";

const HEIGHT = 132;
const TOGETHER = uPlot.sync("charts"); // one cursor for all

// names: columns of samples. top: the least that the axis reaches to, so that noise around zero looks like it.
const CHARTS = {
  connections: { names: ["connections"], colors: ["--accent"], format: numbers.count, top: 4 },
  deliveries: { names: ["deliveries"], colors: ["--accent"], format: numbers.rate, top: 10 },
  latency: { names: ["p50_seconds", "p99_seconds"], colors: ["--accent", "--violet"], labels: ["p50", "p99"], format: numbers.latency, top: 0.001 },
  waiting: { names: ["waiting_bytes"], colors: ["--warm"], format: numbers.bytes, top: 1024, binary: true },
};

/** Round steps of an axis: those of bytes are powers of two. */
const BINARY_STEPS = Array.from({ length: 45 }, (_, power) => 2 ** power);

/** Where a column has a value between two that are none: a line cannot show it, a point does. */
const lonely = (column) =>
  [...column.keys()].filter((at) => column[at] !== null && (column[at - 1] ?? null) === null && (column[at + 1] ?? null) === null);

const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

class Chart {
  constructor(article, kind, samples) {
    this.kind = kind;
    this.samples = samples;
    this.values = kind.names.map((name, index) => this.value(article, index));
    this.when = make("small", { className: "when" });
    this.place = make("div", { className: "plot", ariaHidden: "true" });
    article.append(make("p", { className: "values" }, ...this.values.map(({ shown }) => shown), this.when), this.place);
    this.draw();
    new ResizeObserver(() => this.resize()).observe(this.place);
  }

  value(article, index) {
    const number = make("span", { className: "number" }, numbers.NOTHING);
    const label = this.kind.labels?.[index];
    return { number, shown: make("span", { className: `value v${index}` }, ...(label ? [make("small", {}, label), " "] : []), number) };
  }

  /** (Re)draw with the colours of now. */
  draw() {
    this.plot?.destroy();
    this.plot = new uPlot(this.options(), this.samples.columns(this.kind.names), this.place);
  }

  options() {
    const axis = {
      stroke: color("--soft"),
      grid: { stroke: color("--line"), width: 1 },
      ticks: { show: false },
      font: "11px system-ui, sans-serif",
      gap: 4,
    };
    return {
      width: this.place.clientWidth || 300,
      height: HEIGHT,
      padding: [8, 18, 0, 0],
      legend: { show: false },
      cursor: { sync: { key: TOGETHER.key }, drag: { x: false, y: false }, y: false, points: { size: 7 } },
      scales: {
        x: { time: true, range: () => [Date.now() / 1000 - SPAN_SECONDS, Date.now() / 1000] },
        y: { range: (_plot, _least, most) => [0, Math.max(this.kind.top, (most ?? 0) * 1.15)] },
      },
      axes: [
        { ...axis, size: 24, grid: { show: false }, space: 70, values: (_plot, times) => times.map((time) => this.clock(time)) },
        {
          ...axis,
          size: 62,
          space: 34,
          ...(this.kind.binary ? { incrs: BINARY_STEPS } : {}),
          values: (_plot, values) => values.map((value) => this.kind.format(value).replace(/\.0+(?=\D|$)/, "")),
        },
      ],
      series: [
        {},
        ...this.kind.colors.map((name) => ({
          stroke: color(name), width: 1.75, fill: this.kind.colors.length === 1 ? `${color(name)}1c` : undefined,
          points: { show: false, size: 5, fill: color(name), filter: (plot, series) => lonely(plot.data[series]) },
        })),
      ],
      hooks: { setCursor: [() => this.tell()] },
    };
  }

  clock(time) {
    return new Date(time * 1000).toLocaleTimeString([], { hour12: false, hour: "2-digit", minute: "2-digit" });
  }

  resize() {
    if (this.place.clientWidth) this.plot.setSize({ width: this.place.clientWidth, height: HEIGHT });
  }

  update() {
    this.plot.setData(this.samples.columns(this.kind.names));
    this.tell();
  }

  /** Show the numbers below the cursor, or the last ones there are: without a publication there is no latency. */
  tell() {
    const { list, latest } = this.samples;
    const [first] = this.kind.names;
    const pointed = list[this.plot?.cursor.idx];
    const sample = pointed ?? list.findLast((each) => (each[first] ?? null) !== null) ?? latest;
    this.kind.names.forEach((name, index) => setText(this.values[index].number, this.kind.format(sample[name])));
    const isNow = sample === latest && !pointed;
    setText(this.when, isNow || !sample.time ? "" : `at ${numbers.clock(new Date(sample.time * 1000))}`);
  }
}

/** Make the charts in `section`; returns what draws them again. */
export function makeCharts(section, samples) {
  const charts = [...section.querySelectorAll("[data-chart]")].map(
    (article) => new Chart(article, CHARTS[article.dataset.chart], samples),
  );
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => charts.forEach((chart) => chart.draw()));
  return () => charts.forEach((chart) => chart.update());
}
