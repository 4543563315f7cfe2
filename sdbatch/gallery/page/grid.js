"use strict";

const GAP = 16;
const SPARE_LINES = 2; // lines of tiles kept ready above and below the visible ones

/**
 * The grid of tiles. Only those in sight (and the one with the focus) are in the document, each at its
 * computed place, so that 10,000 pictures cost no more than 100. A position is a place in the order shown.
 */
class Grid {
  constructor(list, makeTile, onOpen) {
    this.list = list;
    this.makeTile = makeTile;
    this.rows = [];
    this.tiles = new Map(); // position → element
    this.current = 0; // the position that Tab reaches
    this.size = 200;
    this.ratio = 1; // height of a picture's cell divided by its width
    this.captionHeight = 0;

    const soon = inNextFrame(() => this.render());
    addEventListener("scroll", soon, { passive: true });
    new ResizeObserver(() => this.layout()).observe(list);
    list.addEventListener("keydown", (event) => this.onKey(event));
    list.addEventListener("click", (event) => {
      const tile = event.target.closest("li");
      if (tile) onOpen(Number(tile.dataset.position));
    });
    list.addEventListener("focusin", (event) => this.setCurrent(Number(event.target.closest("li").dataset.position)));
  }

  /** Shows these rows, in this order, from the top. */
  show(rows) {
    this.rows = rows;
    this.current = 0;
    this.discardTiles();
    this.layout();
  }

  /** Shows `rows` that only extend the current ones: existing tiles stay. */
  extend(rows) {
    this.rows = rows;
    this.layout();
  }

  setTile({ size = this.size, ratio = this.ratio, captionHeight = this.captionHeight }) {
    Object.assign(this, { size, ratio, captionHeight });
    const middle = this.positionInView();
    this.layout();
    if (middle > 0) this.scrollTo(middle, "center");
  }

  layout() {
    const width = this.list.clientWidth;
    this.perLine = Math.max(1, Math.floor((width + GAP) / (this.size + GAP)));
    this.tileWidth = (width - GAP * (this.perLine - 1)) / this.perLine;
    this.tileHeight = Math.round(this.tileWidth * this.ratio) + this.captionHeight;
    const lines = Math.ceil(this.rows.length / this.perLine);
    this.list.style.height = `${Math.max(0, lines * (this.tileHeight + GAP) - GAP)}px`;
    this.list.style.setProperty("--tile-width", `${this.tileWidth}px`);
    this.list.style.setProperty("--picture-height", `${this.tileHeight - this.captionHeight}px`);
    for (const [position, tile] of this.tiles) this.place(tile, position);
    this.render();
  }

  render() {
    const pitch = this.tileHeight + GAP;
    const top = -this.list.getBoundingClientRect().top;
    const firstLine = Math.max(0, Math.floor(top / pitch) - SPARE_LINES);
    const lastLine = Math.ceil((top + innerHeight) / pitch) + SPARE_LINES;
    const first = firstLine * this.perLine;
    const end = Math.min(this.rows.length, lastLine * this.perLine);

    for (const [position, tile] of this.tiles) {
      // The focus must not be lost when its tile is scrolled away.
      const kept = position < this.rows.length && (position === this.current || (position >= first && position < end));
      if (!kept) this.discard(position, tile);
    }
    for (let position = first; position < end; position++) {
      if (!this.tiles.has(position)) this.insert(position);
    }
  }

  insert(position) {
    const tile = this.makeTile(this.rows[position]);
    tile.dataset.position = position;
    tile.setAttribute("aria-posinset", position + 1);
    tile.setAttribute("aria-setsize", this.rows.length);
    tile.firstElementChild.tabIndex = position === this.current ? 0 : -1;
    this.place(tile, position);
    this.tiles.set(position, tile);
    this.list.append(tile);
  }

  place(tile, position) {
    const x = (position % this.perLine) * (this.tileWidth + GAP);
    const y = Math.floor(position / this.perLine) * (this.tileHeight + GAP);
    tile.style.transform = `translate(${x}px, ${y}px)`;
  }

  discard(position, tile) {
    tile.querySelector("img")?.removeAttribute("src"); // stops a download that is no longer needed
    tile.remove();
    this.tiles.delete(position);
  }

  discardTiles() {
    for (const [position, tile] of this.tiles) this.discard(position, tile);
  }

  setCurrent(position) {
    const before = this.tiles.get(this.current);
    if (before) before.firstElementChild.tabIndex = -1;
    this.current = position;
    const tile = this.tiles.get(position);
    if (tile) tile.firstElementChild.tabIndex = 0;
  }

  /** Brings a position into view and gives it the focus. */
  focus(position) {
    if (!this.rows.length) return;
    this.setCurrent(Math.min(Math.max(position, 0), this.rows.length - 1));
    this.scrollTo(this.current, "nearest");
    if (!this.tiles.has(this.current)) this.insert(this.current);
    this.tiles.get(this.current).firstElementChild.focus({ preventScroll: true });
  }

  scrollTo(position, where) {
    const pitch = this.tileHeight + GAP;
    const toolbar = document.querySelector(".toolbar").getBoundingClientRect().bottom;
    const top = this.list.getBoundingClientRect().top + Math.floor(position / this.perLine) * pitch;
    if (where === "center") scrollBy(0, top - (innerHeight - this.tileHeight) / 2);
    else if (top < toolbar + GAP) scrollBy(0, top - toolbar - GAP);
    else if (top + this.tileHeight > innerHeight - GAP) scrollBy(0, top + this.tileHeight - innerHeight + GAP);
    this.render();
  }

  /** The position in the middle of the window, 0 while the first line is in sight. */
  positionInView() {
    const pitch = this.tileHeight + GAP;
    const top = -this.list.getBoundingClientRect().top;
    if (!(top > 0)) return 0;
    return Math.min(this.rows.length - 1, Math.floor((top + innerHeight / 2) / pitch) * this.perLine);
  }

  onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const page = Math.max(1, Math.floor(innerHeight / (this.tileHeight + GAP)) - 1) * this.perLine;
    const last = this.rows.length - 1;
    const target = {
      ArrowLeft: this.current - 1,
      ArrowRight: this.current + 1,
      ArrowUp: this.current - this.perLine < 0 ? this.current : this.current - this.perLine,
      ArrowDown: this.current + this.perLine > last ? this.current : this.current + this.perLine,
      PageUp: this.current - page,
      PageDown: this.current + page,
      Home: 0,
      End: last,
    }[event.key];
    if (target === undefined) return;
    event.preventDefault();
    this.focus(target);
  }
}

/** Calls `act` at most once per frame. */
function inNextFrame(act) {
  let waiting = false;
  return () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      act();
    });
  };
}
