"use strict";

/** The metadata of all rows, column by column. A row is an index into every column. */
class Table {
  constructor() {
    this.columns = new Map();
    this.length = 0;
  }

  /** Appends rows: a list of [column name, values], the values of all columns equally many. */
  add(columns) {
    const added = columns[0][1].length;
    const values = new Map(columns);
    for (const name of values.keys()) {
      if (!this.columns.has(name)) this.columns.set(name, new Array(this.length).fill(null));
    }
    for (const [name, column] of this.columns) {
      column.push(...(values.get(name) ?? new Array(added).fill(null)));
    }
    this.length += added;
  }

  /** A row's value; null where it has none. */
  get(name, row) {
    return this.columns.get(name)?.[row] ?? null;
  }

  /** The rows that `keep` accepts, in input order, or sorted by a column. Rows without a value come last. */
  select(keep, sortedBy, descending) {
    const rows = [];
    for (let row = 0; row < this.length; row++) {
      if (keep(row)) rows.push(row);
    }
    if (!sortedBy) return descending ? rows.reverse() : rows;

    const column = this.columns.get(sortedBy);
    const sign = descending ? -1 : 1;
    const empty = (row) => column[row] === null || column[row] === "";
    return rows.sort((a, b) => empty(a) - empty(b) || sign * compare(column[a], column[b]) || a - b);
  }
}

const collator = new Intl.Collator(undefined, { numeric: true });

function compare(a, b) {
  if (typeof a === "string" || typeof b === "string") return collator.compare(String(a), String(b));
  return a < b ? -1 : a > b ? 1 : 0; // numbers and big integers compare with each other
}

/** A test for text: all words must occur, "quoted phrases" literally, and no -word. Case and accents are ignored. */
function textMatcher(query) {
  const terms = [...query.matchAll(/(-?)(?:"([^"]+)"?|(\S+))/g)].map(([, minus, phrase, word]) => ({
    text: fold(phrase ?? word),
    wanted: !minus,
  }));
  return (folded) => terms.every((term) => folded.includes(term.text) === term.wanted);
}

/** Text as it is compared in searches. */
function fold(text) {
  return text.normalize("NFKD").replace(/\p{Mn}/gu, "").toLowerCase();
}

/** A value as people read it. */
function display(value) {
  if (value === null || value === "") return "–";
  if (typeof value === "number" && !Number.isInteger(value)) return String(Number(value.toPrecision(7)));
  return String(value);
}

/** A column's name as people read it. */
function label(name) {
  return name.replaceAll("_", " ");
}
