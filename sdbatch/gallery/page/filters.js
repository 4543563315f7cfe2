"use strict";

// Columns without a filter: the search field covers the prompt, and the others identify a single row.
const UNFILTERED = new Set(["prompt", "key", "file_name", "sha256", "picture", "parameters", "started_from"]);
const FIRST = ["status", "error", "sampler", "steps", "guidance_scale"];
const LAST = ["seed", "height", "width", "model", "negative_prompt", "prompt_tokens", "prompt_truncated"];
const MAX_CHOICES = 100;
const MAX_NUMBER_CHOICES = 24;
const OPEN_AT_FIRST = 5;

/** The filter panel: one facet per column, each a list of values, a range or a text. */
class Filters {
  constructor(container, table, onChange) {
    this.container = container;
    this.table = table;
    this.onChange = onChange;
    this.facets = [];
  }

  /** Rebuilds the facets from all rows of the table. */
  build() {
    const names = [...this.table.columns.keys()].filter((name) => !UNFILTERED.has(name));
    const rank = (name) => (FIRST.includes(name) ? FIRST.indexOf(name) : LAST.includes(name) ? 200 + LAST.indexOf(name) : 100);
    names.sort((a, b) => rank(a) - rank(b));
    this.facets = names.map((name) => makeFacet(name, this.table.columns.get(name))).filter(Boolean);
    this.container.replaceChildren(
      ...this.facets.map((facet, index) => {
        facet.element.open = index < OPEN_AT_FIRST;
        facet.element.addEventListener("input", this.onChange);
        return facet.element;
      }),
    );
  }

  get active() {
    return this.facets.filter((facet) => facet.active);
  }

  clear() {
    for (const facet of this.facets) facet.clear();
  }

  /**
   * Shows how many rows each choice would give, and returns the test that a row must pass.
   * A facet's own filter doesn't narrow its own counts: they say what another choice would bring.
   */
  apply(searched) {
    const active = this.active;
    for (const facet of this.facets) facet.resetCounts();
    const passes = new Uint8Array(this.table.length);
    for (let row = 0; row < passes.length; row++) {
      if (!searched(row)) continue;
      const failed = active.filter((facet) => !facet.test(row));
      if (failed.length === 0) {
        passes[row] = 1;
        for (const facet of this.facets) facet.count(row);
      } else if (failed.length === 1) {
        failed[0].count(row);
      }
    }
    for (const facet of this.facets) facet.showCounts();
    return (row) => passes[row] === 1;
  }
}

/** The facet that suits a column's values; null if all are alike. */
function makeFacet(name, column) {
  const values = new Set(column);
  if (values.size < 2) return null;
  const isNumber = (value) => typeof value === "number" || typeof value === "bigint";
  const numeric = [...values].every((value) => value === null || isNumber(value));
  const repeated = values.size <= 4 || values.size <= column.length / 2;
  if (repeated && values.size <= (numeric ? MAX_NUMBER_CHOICES : MAX_CHOICES)) {
    return new ChoiceFacet(name, column, [...values].sort(compareChoices));
  }
  return numeric ? new RangeFacet(name, column) : new TextFacet(name, column);
}

function compareChoices(a, b) {
  return (a === null) - (b === null) || compare(a, b);
}

function choiceText(value) {
  return value === null || value === "" ? "(none)" : display(value);
}

class Facet {
  constructor(name, column) {
    this.column = column;
    this.name = label(name);
    this.element = make("details", { className: "facet" }, [make("summary", { textContent: this.name })]);
  }

  // Only choices have counts.
  resetCounts() {}
  count() {}
  showCounts() {}
}

class ChoiceFacet extends Facet {
  constructor(name, column, values) {
    super(name, column);
    this.choices = new Map();
    const list = make("div", { className: "choices" });
    for (const value of values) {
      const box = make("input", { type: "checkbox" });
      const count = make("span", { className: "count" });
      const text = make("span", { className: "value", textContent: choiceText(value), dir: "auto" });
      list.append(make("label", {}, [box, text, count]));
      this.choices.set(value, { box, count, rows: 0 });
    }
    this.element.append(list);
  }

  get active() {
    return this.checked.length > 0;
  }

  get checked() {
    return [...this.choices].filter(([, choice]) => choice.box.checked).map(([value]) => value);
  }

  get summary() {
    return this.checked.map(choiceText).join(", ");
  }

  clear() {
    for (const choice of this.choices.values()) choice.box.checked = false;
  }

  test(row) {
    return this.choices.get(this.column[row]).box.checked;
  }

  resetCounts() {
    for (const choice of this.choices.values()) choice.rows = 0;
  }

  count(row) {
    this.choices.get(this.column[row]).rows += 1;
  }

  showCounts() {
    for (const { box, count, rows } of this.choices.values()) {
      count.textContent = rows.toLocaleString("en");
      box.parentElement.classList.toggle("empty", rows === 0 && !box.checked);
    }
  }
}

class RangeFacet extends Facet {
  constructor(name, column) {
    super(name, column);
    const numbers = column.filter((value) => value !== null && value === value);
    const least = numbers.reduce((a, b) => (b < a ? b : a));
    const most = numbers.reduce((a, b) => (b > a ? b : a));
    const input = (word, bound) =>
      make("input", { type: "number", step: "any", placeholder: display(bound), ariaLabel: `${this.name}, ${word}` });
    this.from = input("from", least);
    this.to = input("to", most);
    this.element.append(make("div", { className: "range" }, [this.from, make("span", { textContent: "to" }), this.to]));
  }

  get active() {
    return this.from.value !== "" || this.to.value !== "";
  }

  get summary() {
    if (this.to.value === "") return `≥ ${this.from.value}`;
    if (this.from.value === "") return `≤ ${this.to.value}`;
    return `${this.from.value} to ${this.to.value}`;
  }

  clear() {
    this.from.value = this.to.value = "";
  }

  test(row) {
    const value = this.column[row];
    if (value === null) return false;
    const above = this.from.value === "" || value >= exactNumber(this.from.value);
    return above && (this.to.value === "" || value <= exactNumber(this.to.value));
  }
}

/** A typed number; whole ones as big integers, for a seed may have more digits than a number holds. */
function exactNumber(text) {
  return /^-?\d+$/.test(text) ? BigInt(text) : Number(text);
}

class TextFacet extends Facet {
  constructor(name, column) {
    super(name, column);
    this.input = make("input", { type: "search", placeholder: "contains…", ariaLabel: this.name });
    this.element.append(make("div", { className: "text" }, [this.input]));
  }

  get active() {
    return this.input.value.trim() !== "";
  }

  get summary() {
    return this.input.value;
  }

  clear() {
    this.input.value = "";
  }

  test(row) {
    if (this.query !== this.input.value) {
      this.query = this.input.value;
      this.matches = textMatcher(this.query);
    }
    return this.matches(fold(String(this.column[row] ?? "")));
  }
}

/** An element with properties and children. Text goes in as text, never as markup. */
function make(tag, properties, children = []) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}
