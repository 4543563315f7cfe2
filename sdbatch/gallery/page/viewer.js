"use strict";

const UNLISTED = new Set(["prompt", "picture", "parameters", "started_from"]); // shown separately
const COPIED_MS = 1600;
const SMALL = 160; // smaller pictures are enlarged with sharp pixels rather than blurred

/** One picture, large, with all that is known about it. */
class Viewer {
  constructor(dialog, table, onClose) {
    this.dialog = dialog;
    this.table = table;
    this.rows = [];
    this.position = 0;
    this.parts = Object.fromEntries([...dialog.querySelectorAll("[id]")].map((part) => [part.id, part]));

    const { previous, next, close } = this.parts;
    previous.addEventListener("click", () => this.step(-1));
    next.addEventListener("click", () => this.step(1));
    close.addEventListener("click", () => dialog.close());
    dialog.addEventListener("close", () => onClose(this.position));
    dialog.addEventListener("keydown", (event) => this.onKey(event));
    this.parts["copy-parameters"].addEventListener("click", () => this.copy("parameters"));
    this.parts["copy-prompt"].addEventListener("click", () => this.copy("prompt"));
    this.parts["viewer-picture"].addEventListener("load", () => this.onLoad());
    addEventListener("resize", inNextFrame(() => this.fit()));
  }

  get row() {
    return this.rows[this.position];
  }

  get isOpen() {
    return this.dialog.open;
  }

  open(rows, position) {
    this.rows = rows;
    this.show(position);
    if (this.isOpen) return;
    this.dialog.showModal();
    this.dialog.focus(); // rather than its first button, which a later press of Enter would trigger
    this.fit();
  }

  step(by) {
    const position = this.position + by;
    if (position >= 0 && position < this.rows.length) this.show(position);
  }

  show(position) {
    this.position = position;
    const value = (name) => this.table.get(name, this.row);
    const parts = this.parts;
    const picture = value("picture");

    parts["viewer-picture"].hidden = picture === null;
    parts["viewer-picture"].alt = value("prompt") ?? "";
    if (picture === null) parts["viewer-picture"].removeAttribute("src");
    else parts["viewer-picture"].src = picture;
    parts["viewer-reason"].hidden = picture !== null;
    parts["viewer-reason"].replaceChildren(
      make("strong", { textContent: "No picture" }),
      make("span", { textContent: value("error") ?? "The reason is unknown.", dir: "auto" }),
    );

    const input = value("started_from");
    parts["viewer-input"].hidden = input === null;
    if (input === null) parts["viewer-input-picture"].removeAttribute("src");
    else parts["viewer-input-picture"].src = input;

    parts["viewer-prompt"].textContent = value("prompt") || "(no prompt)";
    parts["copy-parameters"].hidden = value("parameters") === null;
    parts["copy-prompt"].hidden = !value("prompt");
    parts["viewer-file"].hidden = picture === null;
    parts["viewer-file"].href = picture ?? "";
    parts["viewer-place"].textContent = `${count(position + 1)} of ${count(this.rows.length)}`;
    parts["viewer-facts"].replaceChildren(...this.facts());
    // Not disabled with the attribute: a button that loses the focus would disable the arrow keys.
    parts.previous.ariaDisabled = String(position === 0);
    parts.next.ariaDisabled = String(position === this.rows.length - 1);
    history.replaceState(null, "", `#${value("key")}`);
  }

  facts() {
    const names = [...this.table.columns.keys()].filter((name) => !UNLISTED.has(name));
    return names.map((name) => {
      const value = this.table.get(name, this.row);
      const detail = make("dd", { textContent: display(value), dir: "auto" });
      return make("div", { className: value === null || value === "" ? "none" : "" }, [
        make("dt", { textContent: label(name) }),
        detail,
      ]);
    });
  }

  onLoad() {
    this.fit();
    const following = this.rows[this.position + 1];
    if (following !== undefined) new Image().src = this.table.get("picture", following) ?? ""; // ready for the next step
  }

  /** Fits the picture into the window: larger than it is only by a whole factor, so that all pixels are alike. */
  fit() {
    const picture = this.parts["viewer-picture"];
    if (!picture.naturalWidth) return; // not loaded yet
    const stage = picture.parentElement;
    const room = Math.min(stage.clientWidth / picture.naturalWidth, stage.clientHeight / picture.naturalHeight);
    const factor = room >= 1 ? Math.floor(room) : room;
    picture.style.width = `${picture.naturalWidth * factor}px`;
    picture.classList.toggle("pixels", Math.max(picture.naturalWidth, picture.naturalHeight) <= SMALL);
  }

  async copy(what) {
    await copyText(this.table.get(what, this.row));
    const button = this.parts[`copy-${what}`];
    const before = `Copy ${what}`;
    button.textContent = "Copied";
    this.parts.copied.textContent = `${what} copied`;
    setTimeout(() => {
      button.textContent = before;
      this.parts.copied.textContent = "";
    }, COPIED_MS);
  }

  onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "ArrowLeft") this.step(-1);
    else if (event.key === "ArrowRight") this.step(1);
    else if (event.key === "c" && !this.parts["copy-parameters"].hidden) this.copy("parameters");
    else return;
    event.preventDefault();
  }
}

/** Puts text on the clipboard, also on pages served without TLS, where the clipboard API is missing. */
async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = make("textarea", { value: text, className: "hidden" });
    // In the open dialog: text outside of a modal dialog can't be selected.
    (document.querySelector("dialog[open]") ?? document.body).append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}
