// A small chart of one series over time, as SVG: a line above a filled area, on a scale that begins at 0.

const SVG = "http://www.w3.org/2000/svg";
const SAMPLES = 300;
const WIDTH = SAMPLES - 1;
const HEIGHT = 100;

function shape(name, properties) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(properties)) made.setAttribute(key, value);
  return made;
}

// Paths of the series: newest at the right edge; what is not known is a gap.
function paths(values, highest) {
  const first = SAMPLES - values.length;
  const at = (value, index) => (first + index) + "," + (HEIGHT - 2 - (HEIGHT - 6) * value / highest).toFixed(2);
  const runs = [];
  values.forEach((value, index) => {
    if (value === null || value === undefined) runs.push([]);
    else if (runs.length) runs[runs.length - 1].push([value, index]);
    else runs.push([[value, index]]);
  });
  const drawn = runs.filter(run => run.length > 0);
  const line = drawn.map(run => "M" + run.map(([value, index]) => at(value, index)).join("L")).join("");
  const area = drawn.map(run => {
    const [from, to] = [first + run[0][1], first + run[run.length - 1][1]];
    return "M" + from + "," + HEIGHT + "L" + run.map(([value, index]) => at(value, index)).join("L") + "L" + to + "," + HEIGHT + "Z";
  }).join("");
  return { line, area };
}

function drawChart(host, values, label) {
  let svg = host.firstElementChild;
  if (!svg) {
    svg = shape("svg", { viewBox: "0 0 " + WIDTH + " " + HEIGHT, preserveAspectRatio: "none", role: "img" });
    svg.append(
      shape("line", { class: "base", x1: 0, x2: WIDTH, y1: HEIGHT - 1, y2: HEIGHT - 1 }),
      shape("path", { class: "area" }),
      shape("path", { class: "line" }),
    );
    host.replaceChildren(svg);
  }
  const known = values.filter(value => value !== null && value !== undefined);
  const highest = Math.max(1, ...known);
  const { line, area } = paths(values, highest);
  svg.children[1].setAttribute("d", area);
  svg.children[2].setAttribute("d", line);
  svg.setAttribute("aria-label", label);
  return known.length ? highest : null;
}
