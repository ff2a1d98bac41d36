// The last ten minutes, as the gateway kept them: the part that this page has not seen yet comes with each look.

import { ask } from "./api.js";

/** How far back the charts go; the gateway keeps as much. */
export const SPAN_SECONDS = 600;

export class Samples {
  constructor() {
    this.list = []; // { time (of this machine's clock, in seconds), … } in the order of time
    this.next = 0;
    this.uptime = 0;
  }

  async look() {
    let answer = await ask(`trends?after=${this.next}`);
    if (answer.uptime_seconds < this.uptime) {
      // Another gateway: nothing is known about the time between the two.
      this.add({ time: Date.now() / 1000 - answer.uptime_seconds });
      answer = await ask("trends?after=0");
    }
    this.next = answer.next;
    this.uptime = answer.uptime_seconds;
    const now = Date.now() / 1000;
    answer.samples.seconds_ago.forEach((seconds, index) => {
      const values = Object.entries(answer.samples).map(([name, column]) => [name, column[index]]);
      this.add({ ...Object.fromEntries(values), time: now - seconds });
    });
    while (this.list[0]?.time < now - SPAN_SECONDS) this.list.shift();
  }

  add(sample) {
    if (!(sample.time <= this.list.at(-1)?.time)) this.list.push(sample);
  }

  get latest() {
    return this.list.at(-1) ?? {};
  }

  /** Return what uPlot wants: a column of times and one for each name. */
  columns(names) {
    const column = (name) => this.list.map((sample) => sample[name] ?? null);
    return [column("time"), ...names.map(column)];
  }
}
