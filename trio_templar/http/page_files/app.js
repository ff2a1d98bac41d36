// The page: looks every two seconds while it is seen, and says what state the gateway is in.

import { Refused, TokenWanted, Unreachable, ask, token } from "./api.js";
import { makeCharts } from "./charts.js";
import { Connections } from "./connections.js";
import { element, enableCopying, make, setText, tell } from "./dom.js";
import * as numbers from "./numbers.js";
import { Publish } from "./publish.js";
import { Rooms } from "./rooms.js";
import { Samples } from "./samples.js";
import { Tree } from "./tree.js";

const LOOK_MS = 2000;
const LEAST_MS = 1000; // also when something changed

const samples = new Samples();
let wake = () => {};
let seenAt = null; // when the gateway last answered
let asking = false; // for the token: nothing is looked at meanwhile

/** Look again soon, not at the next turn. */
const hurry = () => wake();

function say(text) {
  setText(element("said"), text);
  clearTimeout(say.timer);
  say.timer = setTimeout(() => setText(element("said"), ""), 6000);
}

const STATES = { live: "live", draining: "draining", unreachable: "unreachable", token: "token wanted", failing: "failing" };

/** Show one of STATES and what it means; live needs no words. */
function show(state, words = "") {
  setText(element("state"), STATES[state]);
  element("state").dataset.state = document.body.dataset.state = state;
  element("notice").hidden = !words;
  element("notice").dataset.state = state;
  setText(element("notice-text"), words);
  element("token-form").hidden = state !== "token";
  element("forget").hidden = state === "token" || !token.get();
}

function wantToken(words) {
  asking = true;
  show("token", words);
  element("token").focus();
}

function fail(error) {
  if (error instanceof TokenWanted) {
    return wantToken(token.get() ? "The gateway refused this token. Has it been changed?" : "This gateway asks for its token.");
  }
  if (error instanceof Refused) return show("failing", `The gateway answered ${error.message}`);
  if (!(error instanceof Unreachable)) throw error;
  const since = seenAt ? ` What you see is from ${numbers.clock(seenAt)}.` : "";
  show("unreachable", `The gateway does not answer (${error.message}).${since} Trying again.`);
}

function total(title, value, hint = "") {
  return make("div", { title: hint }, make("dt", {}, title), make("dd", {}, value));
}

/** Return the sum of counts by cause, and what it is made of. */
function byCause(counts) {
  const found = Object.entries(counts ?? {}).filter(([, number]) => number);
  const sum = found.reduce((total, [, number]) => total + number, 0);
  return [numbers.count(sum), found.map(([cause, number]) => `${cause}: ${number}`).join("\n") || "nothing since the start"];
}

function showTotals(status) {
  const { used_bytes, soft_bytes, hard_bytes } = status.memory;
  const kept = status.history;
  element("totals").replaceChildren(
    total("Rooms", numbers.count(status.rooms)),
    total("Subscriptions", numbers.count(status.subscriptions)),
    total("Triggers", `${numbers.rate(samples.latest.triggers)}/s`, `${numbers.count(status.triggers)} since the start`),
    total("Publications", `${numbers.rate(samples.latest.publications)}/s`, `${numbers.count(status.publications)} since the start`),
    total("Deliveries", numbers.count(status.deliveries), "since the start"),
    total("Dropped", ...byCause(status.drops)),
    total("Refused", ...byCause(status.client_errors)),
    total("Memory", numbers.bytes(used_bytes), `soft limit ${numbers.bytes(soft_bytes)}, hard limit ${numbers.bytes(hard_bytes)}`),
    total("Kept", numbers.bytes(kept.bytes), `${numbers.count(kept.publications)} publications of the last ${numbers.duration(kept.span_seconds)}, for clients that come back`),
    total("Came back", ...byCause(status.recoveries)),
  );
}

async function lookAtStatus(update) {
  const [status] = await Promise.all([ask("status"), samples.look()]);
  update();
  showTotals(status);
  setText(element("version"), status.version);
  setText(element("about"), `${location.host}, up ${numbers.duration(status.uptime_seconds)}`);
  element("about").title = `since ${new Date(status.started).toLocaleString()}`;
  document.title = `${numbers.count(status.connections)} connected · ${location.host}`;
  seenAt = new Date();
  if (status.draining) show("draining", "The gateway is draining: it lets nobody in and sends its clients elsewhere.");
  else show("live");
}

/** Resolve once the tab is seen. */
function visible() {
  if (!document.hidden) return Promise.resolve();
  return new Promise((seen) => document.addEventListener("visibilitychange", seen, { once: true })).then(visible);
}

/** Resolve after a turn, or sooner when somebody is in a hurry. */
const turn = () =>
  new Promise((over) => {
    const began = performance.now();
    const timer = setTimeout(over, LOOK_MS);
    wake = () => {
      clearTimeout(timer);
      setTimeout(over, Math.max(0, LEAST_MS - (performance.now() - began)));
    };
  });

async function lookForever(looks, update) {
  for (;;) {
    await visible();
    if (!asking) {
      try {
        await Promise.all(looks.map((look) => look()));
      } catch (error) {
        fail(error);
        update();
      }
    }
    await turn();
  }
}

element("token-form").onsubmit = (event) => {
  event.preventDefault();
  token.set(element("token").value.trim());
  element("token").value = "";
  asking = false;
  hurry();
};
element("token").oninput = ({ target }) =>
  target.setCustomValidity(/^[\x21-\x7e]*$/.test(target.value.trim()) ? "" : "A token has only plain letters, digits and signs.");
element("forget").onclick = () => {
  token.forget();
  wantToken("The token is forgotten. This gateway asks for one.");
};

const config = await ask("page.json");
const update = makeCharts(element("charts"), samples);
const publish = new Publish(config.needs_token, hurry, fail);
const views = [new Connections(hurry, say), new Rooms(hurry, (room) => publish.goTo(room)), new Tree()];
if (config.demo) (await import("./demo.js")).start(config.demo, publish);
enableCopying(document);
if (config.needs_token && !token.get()) wantToken("This gateway asks for its token.");
lookForever([() => lookAtStatus(update), ...views.map((view) => () => view.look())], update);
