// Panels of curves: one hover line through all of them, log scale, smoothing, areas.

const COLOURS = ["--c1", "--c2", "--c3", "--c4", "--c5", "--c6"];
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** At each place the mean of the last `window` values up to it; missing ones are left out. */
function smooth(values, window) {
  if (window <= 1) return values;
  return values.map((value, end) => {
    if (typeof value !== "number") return null;
    const part = values.slice(Math.max(0, end - window + 1), end + 1).filter((v) => typeof v === "number");
    return part.reduce((a, b) => a + b, 0) / part.length;
  });
}

/** Lines on one x axis: the union of all x, and for each line its values there, or null. */
function align(lines) {
  const xs = [...new Set(lines.flatMap((line) => line.x.filter((x) => typeof x === "number")))].sort((a, b) => a - b);
  const place = new Map(xs.map((x, i) => [x, i]));
  const columns = lines.map((line) => {
    const column = new Array(xs.length).fill(null);
    line.x.forEach((x, i) => { if (place.has(x) && typeof line.y[i] === "number") column[place.get(x)] = line.y[i]; });
    return column;
  });
  return [xs, ...columns];
}

/** Values stacked upon each other, for areas. */
function stack(columns) {
  const sums = columns[0].map(() => 0);
  return columns.map((column) => column.map((value, i) => (value === null ? null : (sums[i] += value))));
}

/** Draws one panel into `box`. `panel`: title, note, lines [{label, x, y, colour, dash}], area, ticks, log, xLabel. */
function drawPanel(box, panel) {
  const lines = panel.lines.map((line) => ({ ...line, y: smooth(line.y, panel.window || 1) }));
  const data = align(lines);
  const raw = data.slice(1);
  const columns = panel.area ? stack(raw) : raw;
  const positive = columns.flat().some((value) => value > 0);
  const log = panel.log && positive && !panel.area;
  const shown = log ? columns.map((column) => column.map((v) => (v > 0 ? v : null))) : columns;
  const ink = colour("--quiet"), grid = colour("--line");
  const axis = { stroke: ink, grid: { stroke: grid, width: 1 }, ticks: { stroke: grid }, font: "11px system-ui" };
  const series = lines.map((line, i) => {
    const stroke = colour(line.colour || COLOURS[i % COLOURS.length]);
    return {
      label: line.label, stroke, width: 1.6, dash: line.dash, spanGaps: true,
      points: { show: data[0].length < 2 },
      fill: panel.area && i === 0 ? `${stroke}99` : undefined,
      value: (plot, value, s, at) => (at === null ? "" : number(raw[i][at], 4)),
    };
  });
  const bands = panel.area ? lines.slice(1).map((line, i) => (
    { series: [i + 2, i + 1], fill: `${colour(line.colour || COLOURS[i + 1])}99` })) : [];
  const options = {
    width: Math.max(240, box.clientWidth), height: 190, series: [{ label: panel.xLabel, value: (p, v) => number(v, 6) }, ...series],
    scales: { x: { time: false }, y: log ? { distr: 3 } : { range: valueRange(columns, panel.area) } },
    axes: [axis, { ...axis, size: 56, values: (p, ticks) => ticks.map((v) => (v === null ? "" : number(v, 3))) }],
    bands, cursor: { sync: { key: "panels" }, y: false }, legend: { live: true },
    hooks: { draw: [(plot) => drawTicks(plot, panel.ticks || [])] },
  };
  box.plot = new uPlot(options, [data[0], ...shown], box);
  return box.plot;
}

/** The range of the y axis: from 0 for areas, around the value where all are the same, else uPlot's own. */
function valueRange(columns, area) {
  const values = columns.flat().filter((v) => v !== null);
  const low = Math.min(...values), high = Math.max(...values);
  if (area) return [0, high > 0 ? high : 1];
  if (low === high || !values.length) return values.length ? [low - (Math.abs(low) / 2 || 0.5), high + (Math.abs(high) / 2 || 0.5)] : [0, 1];
  return [low - 0.05 * (high - low), high + 0.05 * (high - low)];
}

/** Vertical lines where a stage begins, short marks where a checkpoint was saved. */
function drawTicks(plot, ticks) {
  const { ctx, bbox } = plot;
  ctx.save();
  for (const tick of ticks) {
    const x = plot.valToPos(tick.x, "x", true);
    if (x < bbox.left || x > bbox.left + bbox.width) continue;
    ctx.strokeStyle = ctx.fillStyle = colour("--quiet");
    ctx.lineWidth = 1;
    ctx.beginPath();
    ctx.moveTo(x, bbox.top + (tick.label ? 0 : bbox.height - 6));
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
    if (tick.label) ctx.fillText(plain(tick.label), x + 4, bbox.top + 12);
  }
  ctx.restore();
}

/** Draws panels into `box` and again when the width or the colours change. */
function drawPanels(box, panels) {
  const draw = () => {
    box.textContent = "";
    for (const panel of panels) {
      const figure = el("figure", { class: "panel", id: `panel-${panel.name}`, title: panel.note },
        el("figcaption", {}, panel.title));
      box.append(figure);
      if (typeof uPlot === "function") drawPanel(figure, panel);
    }
  };
  draw();
  box.redraw = draw;
}

function followSize(box) {
  if (typeof ResizeObserver === "function") {
    let width = box.clientWidth;
    new ResizeObserver(() => {
      if (box.redraw && Math.abs(box.clientWidth - width) > 4) {
        width = box.clientWidth;
        box.redraw();
      }
    }).observe(box);
  }
  if (typeof matchMedia === "function") {
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => box.redraw && box.redraw());
  }
}

/** The value of x for each row of a stage: step, minutes, or completion tokens; null where it isn't known. */
function xOf(columns, by) {
  if (by === "time" && columns.elapsed_s) return columns.elapsed_s.map((s) => (s === null ? null : s / 60));
  if (by === "tokens" && columns.tokens) return columns.tokens;
  return columns.step;
}
const X_LABELS = { step: "step", time: "minutes", tokens: "tokens" };

/** The stages of one run after each other on one x axis: joined columns, and ticks for stages and checkpoints. */
function joinStages(stages, by) {
  const joined = { x: [], columns: {}, ticks: [], weights: {} };
  let offset = 0, rows = 0;
  for (const stage of stages) {
    const x = xOf(stage.columns, by);
    if (stages.length > 1) joined.ticks.push({ x: offset, label: stage.label });
    const every = stage.checkpoint_every;
    stage.columns.step.forEach((step, i) => {
      if (every && step % every === 0 && typeof x[i] === "number") joined.ticks.push({ x: offset + x[i] });
    });
    joined.x.push(...x.map((value) => (typeof value === "number" ? offset + value : null)));
    for (const [name, values] of Object.entries(stage.columns)) {
      joined.columns[name] = joined.columns[name] || new Array(rows).fill(null);
      joined.columns[name].push(...values);
    }
    rows += x.length;
    for (const values of Object.values(joined.columns)) while (values.length < rows) values.push(null);
    Object.assign(joined.weights, stage.weights);
    offset += Math.max(0, ...x.filter((value) => typeof value === "number"));
  }
  return joined;
}
