// The rooms, the busiest first.

import { Refused, ask, withQuery } from "./api.js";
import { element, json, make, setText } from "./dom.js";
import * as numbers from "./numbers.js";
import { LiveTable } from "./table.js";

const SHOWN = 12;

/** The table and its order. `changed()` is called when it should look again, `publishIn(room)` when a room is chosen. */
export class Rooms {
  constructor(changed, publishIn) {
    this.form = element("rooms-form");
    this.form.oninput = changed;
    this.form.onsubmit = (event) => event.preventDefault();
    this.table = new LiveTable(element("rooms"), {
      key: (it) => json(it.room),
      empty: "Nobody is subscribed to anything, and nothing is kept.",
      columns: [
        { title: "Room", text: (it) => json(it.room), className: "code name" },
        { title: "Rate", text: (it) => `${numbers.rate(it.rate)}/s`, className: "number" },
        { title: "Subscribers", text: (it) => numbers.count(it.subscribers), className: "number" },
        { title: "Publications", text: (it) => numbers.count(it.publications), className: "number medium" },
        { title: "In the channel", text: (it) => numbers.count(it.channel), hint: () => "publications that wait for a pass", className: "number wide" },
        { title: "Kept", text: (it) => numbers.count(it.kept), hint: () => "publications for those who come back", className: "number wide" },
        { title: "", text: () => "Publish…", press: (it) => publishIn(it.room), label: (it) => `Publish in ${json(it.room)}`, className: "action" },
      ],
    });
  }

  async look() {
    try {
      const { total, rooms } = await ask(withQuery("rooms/", { ...Object.fromEntries(new FormData(this.form)), limit: SHOWN }));
      this.table.show(rooms);
      setText(element("rooms-count"), total > rooms.length ? `${rooms.length} of ${numbers.count(total)}` : "");
      this.suggest(rooms);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      this.table.fail(error.message);
    }
  }

  /** Offer these rooms in the form that publishes. */
  suggest(rooms) {
    const texts = rooms.map(({ room }) => json(room));
    const known = element("known-rooms");
    if ([...known.children].map(({ value }) => value).join("\n") === texts.join("\n")) return;
    known.replaceChildren(...texts.map((value) => make("option", { value })));
  }
}
