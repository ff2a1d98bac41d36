// The form that publishes, as an API does it: POST /trigger/.

import { Refused, TokenWanted, ask } from "./api.js";
import { element, json, setText, tell } from "./dom.js";

/** Return what is wrong with a field, empty if nothing is. */
function problemOf(field, words) {
  try {
    const value = JSON.parse(element(field).value);
    const isObject = value !== null && typeof value === "object" && !Array.isArray(value);
    return field === "room" && !isObject ? `${words} is not a JSON object` : "";
  } catch (error) {
    return `${words} is not JSON yet: ${error.message}`;
  }
}

/** Both go out as they are written here: 1.50 stays 1.50. */
const trigger = () => `{"rooms": [${element("room").value.trim()}], "data": ${element("data").value.trim()}}`;

/** Say what is wrong with the fields; returns whether nothing is. */
function check() {
  const problems = { room: problemOf("room", "The room"), data: problemOf("data", "The data") };
  for (const [field, problem] of Object.entries(problems)) element(field).ariaInvalid = Boolean(problem);
  tell(element("publish-error"), problems.room || problems.data);
  return !(problems.room || problems.data);
}

export class Publish {
  /** `refused(error)` is told when the token is wanted, `done()` when something was published. */
  constructor(needsToken, done, refused) {
    this.needsToken = needsToken;
    element("room").value = json({ target: "news" });
    element("publish").oninput = () => check() && this.writeCurl();
    element("publish").onsubmit = (event) => {
      event.preventDefault();
      this.publish(done, refused);
    };
    this.writeCurl();
  }

  /** Fill in this room. */
  choose(room) {
    element("room").value = json(room);
    if (check()) this.writeCurl();
  }

  /** The same, and go there. */
  goTo(room) {
    this.choose(room);
    element("publish-card").scrollIntoView({ block: "nearest" });
    element("data").focus();
  }

  writeCurl() {
    const lines = [`curl ${new URL("trigger/", document.baseURI)}`, "-H 'Content-Type: application/json'"];
    if (this.needsToken) lines.push('-H "Authorization: Bearer $TRIO_TEMPLAR_TRIGGER_TOKEN"');
    lines.push(`-d '${trigger().replaceAll("'", "'\\''")}'`);
    setText(element("curl"), lines.join(" \\\n  "));
  }

  async publish(done, refused) {
    if (!check()) return element(element("room").ariaInvalid === "true" ? "room" : "data").focus();
    try {
      const { rooms } = await ask("trigger/", { method: "POST", body: trigger(), accept: "application/json" });
      const reached = rooms.reduce((sum, { subscriptions }) => sum + subscriptions, 0);
      this.say(`200 publish success, to ${reached} ${reached === 1 ? "subscriber" : "subscribers"}`, "good");
      done();
    } catch (error) {
      this.say(error instanceof Refused || error instanceof TokenWanted ? error.message : `Not published: ${error.message}.`, "bad");
      if (!(error instanceof Refused)) refused(error);
    }
  }

  say(text, className) {
    element("result").textContent = text;
    element("result").className = className;
  }
}
