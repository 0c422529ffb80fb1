"use strict";
// Tables sort by a click on their head; figures say what is nearest to the pointer; numbers are saved as CSV.

function sortBy(header) {
  const table = header.closest("table");
  const index = [...header.parentNode.children].indexOf(header);
  const ascending = header.getAttribute("aria-sort") !== "ascending";
  for (const other of header.parentNode.children) other.setAttribute("aria-sort", "none");
  header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  const body = table.tBodies[0];
  const keyed = [...body.rows].map((row, place) => {
    const text = row.cells[index].dataset.key;
    const value = text !== "" && !Number.isNaN(Number(text)) ? Number(text) : text;
    return { row, place, value };
  });
  const compare = (a, b) => {
    if (typeof a.value !== typeof b.value) return typeof a.value === "number" ? -1 : 1; // what has no number, last
    const order = typeof a.value === "number" ? a.value - b.value : a.value.localeCompare(b.value);
    return (ascending ? order : -order) || a.place - b.place;
  };
  for (const { row } of keyed.sort(compare)) body.append(row);
}

for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => sortBy(button.parentNode));
}

const tip = document.getElementById("tip");
const ring = document.getElementById("ring");

function say(text, x, y) {
  tip.textContent = text;
  tip.hidden = ring.hidden = false;
  ring.style.left = `${x + window.scrollX}px`;
  ring.style.top = `${y + window.scrollY}px`;
  const { width, height } = tip.getBoundingClientRect();
  const top = y + 18 + height > window.innerHeight ? y - height - 10 : y + 18;
  tip.style.left = `${Math.max(4, Math.min(x + 14, window.innerWidth - width - 4)) + window.scrollX}px`;
  tip.style.top = `${Math.max(4, Math.min(top, window.innerHeight - height - 4)) + window.scrollY}px`;
}

function hush() {
  tip.hidden = ring.hidden = true;
}

// The file of a text that is gzip in base64, and what its name ends in where the browser cannot unpack it.
async function unpacked(base64) {
  const packed = new Blob([Uint8Array.from(atob(base64), (char) => char.charCodeAt(0))]);
  if (typeof DecompressionStream === "undefined") return [packed, ".gz"];
  const text = new Response(packed.stream().pipeThrough(new DecompressionStream("gzip")));
  return [new Blob([await text.blob()], { type: "text/csv" }), ""];
}

for (const figure of document.querySelectorAll("figure")) {
  const data = JSON.parse(figure.querySelector("script.data").textContent);
  const picture = figure.querySelector(".picture");
  const drawn = picture.querySelector("svg");
  let at = -1;

  const show = (mark) => {
    const box = drawn.getBoundingClientRect();
    say(mark[2], box.left + mark[0] * box.width, box.top + mark[1] * box.height);
  };
  const sayNearest = (event) => {
    const box = drawn.getBoundingClientRect();
    let best = null;
    let least = 24; // pixels
    for (const mark of data.marks) {
      const away = Math.hypot(
        box.left + mark[0] * box.width - event.clientX,
        box.top + mark[1] * box.height - event.clientY,
      );
      if (away < least) [best, least] = [mark, away];
    }
    if (best) show(best);
    else hush();
  };
  picture.addEventListener("pointermove", sayNearest);
  picture.addEventListener("pointerdown", sayNearest); // a finger only touches; what it asked for stays
  picture.addEventListener("pointerleave", (event) => { if (event.pointerType !== "touch") hush(); });
  picture.addEventListener("blur", hush);
  picture.addEventListener("scroll", hush, { passive: true });
  picture.addEventListener("keydown", (event) => {
    if (event.key === "Escape") hush();
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step || !data.marks.length) return;
    event.preventDefault();
    at = (at + step + data.marks.length) % data.marks.length;
    show(data.marks[at]);
  });

  figure.querySelector("button.csv").addEventListener("click", async () => {
    const [numbers, end] = await unpacked(data.csv);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(numbers);
    link.download = data.file + end;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000); // some browsers begin to read only later
  });
}
