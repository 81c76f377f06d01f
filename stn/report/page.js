"use strict";

const { layout, panels } = JSON.parse(document.getElementById("panels").textContent);
const plots = [...document.querySelectorAll(".plot")];
const PAPER = { width: 340, height: 210 }; // of a panel in print, as page.css places them
const touched = matchMedia("(pointer: coarse)").matches;
const config = { responsive: true, displaylogo: false, displayModeBar: false };

for (const plot of plots) {
  const panel = panels[plot.dataset.panel];
  const own = { ...layout, ...panel.layout };
  for (const axis of ["xaxis", "yaxis"]) own[axis] = { ...layout[axis], ...panel.layout[axis], fixedrange: touched };
  if (touched) own.dragmode = false; // a finger scrolls the page
  Plotly.newPlot(plot, panel.data, own, config);
}

// Keys show and hide runs in all panels.
for (const key of document.querySelectorAll(".key")) {
  key.addEventListener("click", () => {
    const shown = key.getAttribute("aria-pressed") !== "true";
    key.setAttribute("aria-pressed", String(shown));
    for (const plot of plots) {
      const own = plot.data.flatMap((trace, index) => (trace.meta.key === key.dataset.key ? [index] : []));
      if (own.length) Plotly.restyle(plot, { visible: shown }, own);
    }
  });
}

// Plots are as wide as the window until they are told otherwise.
addEventListener("beforeprint", () => plots.forEach((plot) => Plotly.relayout(plot, { autosize: false, ...PAPER })));
addEventListener("afterprint", () =>
  plots.forEach((plot) => Plotly.relayout(plot, { autosize: true, width: null, height: layout.height })));

// Numbers before words, what is not known last.
function compare(one, other, sign) {
  if (one === "" || other === "") return (one === "") - (other === "");
  const [left, right] = [Number(one), Number(other)];
  const numbers = [Number.isNaN(left), Number.isNaN(right)];
  if (numbers[0] !== numbers[1]) return numbers[0] - numbers[1];
  return sign * (numbers[0] ? one.localeCompare(other, "en", { numeric: true }) : left - right);
}

function sort(table, column) {
  const heads = [...table.tHead.rows[0].cells];
  const descending = heads[column].getAttribute("aria-sort") === "ascending";
  const value = (row) => row.cells[column].dataset.value;
  const rows = [...table.tBodies[0].rows];
  rows.sort((one, other) => compare(value(one), value(other), descending ? -1 : 1));
  table.tBodies[0].append(...rows);
  heads.forEach((head, index) =>
    head.setAttribute("aria-sort", index !== column ? "none" : descending ? "descending" : "ascending"));
}

for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () => sort(table, column));
    head.append(button);
    head.setAttribute("aria-sort", "none");
  });
}
