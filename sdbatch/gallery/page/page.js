"use strict";

const PHONE_SIZE = 150; // two pictures side by side
const SETTINGS = ["sampler", "steps", "guidance_scale"];
const UNSORTED = new Set(["file_name", "sha256", "picture", "parameters", "started_from"]);

const $ = (id) => document.getElementById(id);
const table = new Table();
const folded = []; // the prompts in the form used for searching
const grid = new Grid($("grid"), makeTile, openAt);
const filters = new Filters($("facets"), table, update);
const viewer = new Viewer($("viewer"), table, onViewerClosed);
let captionColumns = [];

/** Called by data/run.js: what the dataset is, and how many files of rows there are. */
function openGallery(run) {
  document.title = `${run.name} · gallery`;
  $("title").textContent = run.name;
  const facts = [`${count(run.ok)} ${run.ok === 1 ? "picture" : "pictures"}`];
  if (run.failed) facts.push(`${count(run.failed)} failed`);
  if (run.model) facts.push(`model ${run.model}`);
  if (run.more) facts.push(`only the first ${count(run.ok + run.failed)} rows are shown`);
  $("subtitle").textContent = facts.join(" · ");
  loadRows(0, run.files);
}

/** Loads the files of rows one after another. They are scripts because a page on a disk may read nothing else. */
function loadRows(index, files) {
  if (index === files) {
    onLoaded();
    return;
  }
  const script = make("script", { src: `data/rows-${index}.js` });
  script.onload = () => loadRows(index + 1, files);
  script.onerror = () => {
    $("subtitle").textContent += ` · data/rows-${index}.js can't be read: create the gallery again`;
    onLoaded();
  };
  document.body.append(script);
}

/** Called by each file of rows. */
function addRows(columns) {
  const first = table.length;
  table.add(columns);
  for (let row = first; row < table.length; row++) folded.push(fold(table.get("prompt", row) ?? ""));
  if (first === 0) setTileShape();
  grid.extend(table.select(() => true));
}

function onLoaded() {
  const varies = (name) => new Set(table.columns.get(name)).size > 1;
  captionColumns = SETTINGS.filter(varies);
  if (!captionColumns.length) captionColumns = ["seed"].filter(varies);
  setTileShape();
  filters.build();
  const sortable = [...table.columns.keys()].filter((name) => !UNSORTED.has(name));
  $("sort").replaceChildren(
    make("option", { value: "", textContent: "input order" }),
    ...sortable.map((name) => make("option", { value: name, textContent: label(name) })),
  );
  update();
  const row = table.columns.get("key")?.indexOf(location.hash.slice(1)) ?? -1;
  if (row >= 0) openAt(row);
}

/** Tiles have the shape of the dataset's most common picture. */
function setTileShape() {
  const shapes = new Map();
  for (let row = 0; row < table.length; row++) {
    const ratio = table.get("height", row) / table.get("width", row);
    if (ratio > 0 && ratio < Infinity) shapes.set(ratio, (shapes.get(ratio) ?? 0) + 1);
  }
  const [common] = [...shapes].sort((a, b) => b[1] - a[1])[0] ?? [1];
  $("grid").classList.toggle("with-details", captionColumns.length > 0);
  const captionHeight = parseFloat(getComputedStyle($("grid")).getPropertyValue("--caption-height"));
  grid.setTile({ ratio: Math.min(2, Math.max(0.5, common)), captionHeight });
}

/** Shows what search, filters and sorting ask for. */
function update() {
  const query = $("search").value;
  const matches = textMatcher(query);
  const keep = filters.apply((row) => matches(folded[row]));
  const rows = table.select(keep, $("sort").value, $("direction").ariaPressed === "true");
  grid.show(rows);
  if (scrollY > $("grid").offsetTop) scrollTo(0, 0);

  const narrowed = query.trim() !== "" || filters.active.length > 0;
  const shown = narrowed ? `${count(rows.length)} of ${count(table.length)}` : `${count(table.length)} rows`;
  $("count").textContent = $("filters-result").textContent = shown;
  $("nothing").hidden = rows.length > 0;
  $("filters-count").hidden = filters.active.length === 0;
  $("filters-count").textContent = filters.active.length;
  $("filters-clear").hidden = filters.active.length === 0;
}

function makeTile(row) {
  const prompt = table.get("prompt", row) || "(no prompt)";
  const button = make("button", { type: "button", className: "tile" }, [
    table.get("picture", row) === null ? failedPlace(row) : picturePlace(row),
    make("span", { className: "caption", textContent: prompt, dir: "auto" }),
  ]);
  if (captionColumns.length) {
    const details = captionColumns.map((name) => tileDetail(name, table.get(name, row)));
    button.append(make("span", { className: "details", textContent: details.filter(Boolean).join(" · ") }));
  }
  return make("li", {}, [button]);
}

function picturePlace(row) {
  const picture = make("img", { src: table.get("picture", row), alt: "", decoding: "async" });
  return make("span", { className: "place" }, [picture]);
}

function failedPlace(row) {
  return make("span", { className: "place reason" }, [
    make("strong", { textContent: "No picture" }),
    make("span", { textContent: table.get("error", row) ?? "", dir: "auto" }),
  ]);
}

function tileDetail(name, value) {
  if (value === null) return "";
  if (name === "steps") return `${value} steps`;
  if (name === "guidance_scale") return `cfg ${display(value)}`;
  return name === "seed" ? `seed ${value}` : String(value);
}

function count(number) {
  return number.toLocaleString("en");
}

function openAt(position) {
  viewer.open(grid.rows, position);
}

function onViewerClosed(position) {
  history.replaceState(null, "", location.pathname + location.search);
  grid.focus(position);
}

function clearFilters() {
  filters.clear();
  update();
}

function clearAll() {
  $("search").value = "";
  clearFilters();
}

function showFilters(shown) {
  document.body.classList.toggle("filters-shown", shown);
  $("filters-toggle").ariaExpanded = String(shown);
}

/** Only on narrow windows does the panel lie over the pictures. */
function filtersCover() {
  return matchMedia("(max-width: 900px)").matches;
}

function toggleFilters() {
  const shown = !document.body.classList.contains("filters-shown");
  showFilters(shown);
  if (shown) $("filters").focus({ preventScroll: true });
  else $("filters-toggle").focus({ preventScroll: true });
}

function toggleTheme() {
  const isDark = (document.documentElement.dataset.theme ?? systemTheme()) === "dark";
  setTheme(isDark ? "light" : "dark");
}

function systemTheme() {
  return matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  try {
    localStorage.setItem("sdbatch-theme", theme);
  } catch {
    // Some browsers store nothing for pages from a disk: the choice then lasts until the page is closed.
  }
}

function rememberedTheme() {
  try {
    return localStorage.getItem("sdbatch-theme");
  } catch {
    return null;
  }
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || viewer.isOpen) return;
  const typing = event.target.matches("input:not([type=checkbox], [type=range]), select");
  if (event.key === "Escape") onEscape();
  else if (typing) return;
  else if (event.key === "/") $("search").focus();
  else if (event.key === "f") toggleFilters();
  else if (event.key.startsWith("Arrow") && event.target === document.body) grid.focus(grid.current);
  else return;
  event.preventDefault();
}

function onEscape() {
  if (document.activeElement === $("search")) {
    $("search").value = "";
    update();
    grid.focus(0);
  } else if (filtersCover() && document.body.classList.contains("filters-shown")) {
    toggleFilters();
  }
}

const theme = rememberedTheme();
if (theme) document.documentElement.dataset.theme = theme;
showFilters(!filtersCover());
if ($("grid").clientWidth < 500) $("size").value = PHONE_SIZE;
grid.setTile({ size: Number($("size").value) });
$("search").addEventListener("input", inNextFrame(update));
$("sort").addEventListener("change", update);
$("size").addEventListener("input", () => grid.setTile({ size: Number($("size").value) }));
$("direction").addEventListener("click", () => {
  $("direction").ariaPressed = String($("direction").ariaPressed !== "true");
  update();
});
$("theme").addEventListener("click", toggleTheme);
$("filters-toggle").addEventListener("click", toggleFilters);
$("filters-close").addEventListener("click", toggleFilters);
$("filters-clear").addEventListener("click", clearFilters);
$("nothing-clear").addEventListener("click", clearAll);
document.addEventListener("keydown", onKey);
