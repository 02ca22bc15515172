
"use strict";
// The page is whole without this: it sorts, searches and opens.
(() => {
  const table = document.getElementById("sites");
  const all = [...document.querySelectorAll("main > section > details")];
  const open = () => {
    const id = decodeURIComponent(location.hash.slice(1));
    const target = id && document.getElementById(id);
    if (target && target.tagName === "DETAILS") {
      target.open = true;
      target.hidden = false;
      target.scrollIntoView();
      target.querySelector("summary").focus({ preventScroll: true });
    }
  };
  addEventListener("hashchange", open);
  open();
  const before = new Map();
  addEventListener("beforeprint", () => {
    if (!before.size) all.forEach((one) => before.set(one, one.open));
    all.forEach((one) => { one.open = true; });
  });
  addEventListener("afterprint", () => {
    before.forEach((was, one) => { one.open = was; });
    before.clear();
  });
  if (!table) return;
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const buttons = [...table.tHead.querySelectorAll("button")];
  const found = document.getElementById("found");
  const order = document.getElementById("order");
  const search = document.getElementById("search");
  let key = "", direction = 1;
  const tell = () => {
    const shown = rows.filter((row) => !row.hidden).length;
    const sorted = key ? `, ${direction > 0 ? "ascending" : "descending"}` : "";
    found.textContent = `${shown} of ${rows.length} weights${sorted}`;
  };
  const value = (row) => (row.querySelector(`[data-key="${key}"]`) || { dataset: {} }).dataset.value || "";
  const numeric = () => rows.every((row) => value(row) === "" || Number.isFinite(Number(value(row))));
  const sort = (wanted, by) => {
    key = wanted;
    direction = by;
    const numbers = key && numeric();
    const sorted = [...rows].sort((a, b) => {
      if (!key) return a.dataset.number - b.dataset.number;
      const [x, y] = [value(a), value(b)];
      if (x === "" || y === "") return (x === "") - (y === ""); // what isn't known stands last, either way
      const difference = numbers ? x - y : x.localeCompare(y, undefined, { numeric: true });
      return direction * difference || a.dataset.number - b.dataset.number;
    });
    body.append(...sorted);
    for (const button of buttons) {
      const chosen = key && button.dataset.key === key;
      button.closest("th").setAttribute("aria-sort", !chosen ? "none" : direction > 0 ? "ascending" : "descending");
    }
    order.value = [...order.options].some((option) => option.value === key) ? key : "";
    tell();
  };
  const figures = new Set(["sigma", "graph", "proven", "operator", "used", "after", "size"]);
  const first = (wanted) => (figures.has(wanted) ? -1 : 1); // the largest norms are what one looks for
  for (const button of buttons) {
    button.addEventListener("click", () => {
      const wanted = button.dataset.key;
      sort(wanted, wanted === key ? -direction : first(wanted));
    });
  }
  order.addEventListener("change", () => sort(order.value, order.value === key ? direction : first(order.value)));
  search.addEventListener("input", () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    rows.forEach((row) => {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      const details = document.getElementById(`weight-${row.dataset.number}`);
      if (details) details.hidden = row.hidden;
    });
    tell();
  });
})();
