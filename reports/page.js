"use strict";

// A list of the buttons wanted, not of those unwanted: Plotly's upload button can then never appear.
const config = {
  displayModeBar: "hover",
  displaylogo: false,
  responsive: true,
  showSendToCloud: false,
  modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
};
const plots = [...document.querySelectorAll(".plot")];

// One figure at a time, giving way in between, so that a page with hundreds of them can be read at once.
async function drawFrom(index) {
  if (index === plots.length) {
    document.documentElement.dataset.drawn = plots.length;
    return;
  }
  const plot = plots[index];
  try {
    const figure = JSON.parse(plot.nextElementSibling.textContent);
    await Plotly.newPlot(plot, figure.data, figure.layout, config);
  } catch (error) {
    plot.textContent = "This figure could not be drawn.";
    console.error(error);
  }
  setTimeout(drawFrom, 0, index + 1);
}

function toggle(button) {
  const shown = button.getAttribute("aria-pressed") !== "true";
  button.setAttribute("aria-pressed", shown);
  for (const plot of plots) {
    const traces = (plot.data || []).flatMap((trace, index) => (trace.meta === button.dataset.architecture ? [index] : []));
    if (traces.length) Plotly.restyle(plot, { visible: shown }, traces);
  }
}

for (const button of document.querySelectorAll("button[data-architecture]")) {
  button.addEventListener("click", () => toggle(button));
}
// Paper has two columns of panels, three of small ones (page.css); the SVG must be drawn to their width.
addEventListener("beforeprint", () => {
  for (const plot of plots) {
    if (plot.data) Plotly.relayout(plot, { autosize: false, width: plot.closest(".small") ? 215 : 330 });
  }
});
addEventListener("afterprint", () => {
  for (const plot of plots) if (plot.data) Plotly.relayout(plot, { autosize: true, width: null });
});
drawFrom(0);
