// Numbers for people: three digits, a unit, and nothing that jumps in width.

const SPACE = "\u202f"; // narrow, and it does not break
export const NOTHING = "–";

/** 1234567 → 1 234 567 */
export function count(value) {
  if (value === null || value === undefined) return NOTHING;
  return Math.round(value).toString().replace(/\B(?=(\d{3})+$)/g, SPACE);
}

function scaled(value, step, units) {
  let unit = 0;
  // 999.6 would be shown as 1000 of this unit
  while (unit < units.length - 1 && value >= step - 0.5) {
    value /= step;
    unit += 1;
  }
  const digits = unit === 0 || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
  return `${value.toFixed(digits)}${SPACE}${units[unit]}`.trim();
}

/** 1536 → 1.50 KiB */
export function bytes(value) {
  return value === null || value === undefined ? NOTHING : scaled(value, 1024, ["B", "KiB", "MiB", "GiB", "TiB"]);
}

/** A rate per second; small ones keep a digit, since 0 would be wrong. */
export function rate(value) {
  if (value === null || value === undefined) return NOTHING;
  return value > 0 && value < 9.95 ? value.toFixed(1) : count(value);
}

/** A short time: 0.00042 → 0.42 ms */
export function latency(seconds) {
  if (seconds === null || seconds === undefined) return NOTHING;
  if (seconds < 0.9995) {
    const ms = seconds * 1000;
    return `${ms.toFixed(ms >= 99.95 ? 0 : ms >= 9.995 ? 1 : 2)}${SPACE}ms`;
  }
  return `${seconds.toFixed(seconds >= 9.995 ? 1 : 2)}${SPACE}s`;
}

/** A long time, in its two largest units: 7384 → 2 h 3 min */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return NOTHING;
  const parts = [];
  let left = Math.floor(seconds);
  for (const [unit, size] of [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]]) {
    const number = Math.floor(left / size);
    left -= number * size;
    if (number || parts.length) parts.push(`${number}${SPACE}${unit}`);
  }
  return parts.slice(0, 2).join(" ") || `0${SPACE}s`;
}

/** A moment of today, 14:02:07. */
export const clock = (date) => date.toLocaleTimeString([], { hour12: false });
