// How the page asks the gateway. Whatever goes wrong is one of these three, so that the page can say which.

/** Nothing answers, or not in time. */
export class Unreachable extends Error {}

/** The gateway wants a token, or another one. */
export class TokenWanted extends Error {}

/** It answered, and said no. */
export class Refused extends Error {
  constructor(status, text) {
    super(`${status} ${text}`.trim());
    this.status = status;
  }
}

const PATIENCE_MS = 5000;
const KEY = "trio_templar.token";

export const token = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (text) => sessionStorage.setItem(KEY, text),
  forget: () => sessionStorage.removeItem(KEY),
};

/** Return the text of the answer. Addresses are relative: the page may stand below a path of a proxy. */
export async function askText(path, { method = "GET", body, accept = "*/*" } = {}) {
  const headers = { Authorization: `Bearer ${token.get()}`, Accept: accept };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response, text;
  try {
    const signal = AbortSignal.timeout(PATIENCE_MS);
    response = await fetch(path, { method, headers, body, cache: "no-store", signal });
    text = await response.text();
  } catch (error) {
    throw new Unreachable(error.name === "TimeoutError" ? `no answer within ${PATIENCE_MS / 1000} s` : "no answer");
  }
  if (response.status === 401) throw new TokenWanted(text);
  if (!response.ok) throw new Refused(response.status, text);
  return text;
}

/** Return the JSON of the answer. */
export const ask = async (path, options) => JSON.parse(await askText(path, options));

/** Post a JSON value, return that of the answer. */
export const post = (path, value) => ask(path, { method: "POST", body: JSON.stringify(value) });

/** Return `path` with the filters that say something. */
export function withQuery(path, filters) {
  const said = Object.entries(filters).filter(([, value]) => value !== "");
  return said.length ? `${path}?${new URLSearchParams(said)}` : path;
}
