// Two runs beside each other: curves, configuration, the paired test, and the rows that flipped.

/** McNemar's exact two-sided p of `one` rows that only the first has right and `other` that only the second has. */
function mcnemar(one, other) {
  const n = one + other, least = Math.min(one, other);
  if (!n) return 1;
  let log = -n * Math.LN2, sum = 0;
  for (let k = 0; k <= least; k += 1) {
    sum += Math.exp(log);
    log += Math.log(n - k) - Math.log(k + 1);
  }
  return Math.min(1, 2 * sum);
}

/** The last stage of a run whose rows are known; controls don't count where there is another. */
function lastStage(run) {
  const names = Object.keys(run.answers);
  return names.filter((name) => !name.startsWith("control")).at(-1) || names.at(-1);
}

/** The rows that both runs answered, by what became of them: [both, only the first, only the second, none]. */
function pairRows(one, other, stages) {
  const second = new Map(other.problems.map((q, i) => [q, other.answers[stages[1]][i]]));
  const found = { both: [], lost: [], gained: [], none: [] };
  one.problems.forEach((q, i) => {
    const was = one.answers[stages[0]][i], now = second.get(q);
    if (was === "-" || now === undefined || now === "-") return;
    found[was === "1" ? (now === "1" ? "both" : "lost") : (now === "1" ? "gained" : "none")].push(q);
  });
  return found;
}

const runTitle = (run) => `${run.name} ${run.seed === null ? "" : `seed ${run.seed} `}${run.folder.split("/").at(-1)}`;

function drawCompare(one, other) {
  const box = el("section", { id: "compare" }, el("h2", {}, "Two runs compared"),
    el("p", {}, el("b", { class: "run-a" }, "A "), runTitle(one), " · ", one.headline),
    el("p", {}, el("b", { class: "run-b" }, "B "), runTitle(other), " · ", other.headline));
  box.append(drawPaired(one, other), drawDifference(one, other), drawOverlay(one, other));
  return box;
}

function drawPaired(one, other) {
  const names = [Object.keys(one.answers), Object.keys(other.answers)];
  if (!names[0].length || !names[1].length) return el("p", { class: "quiet" }, "At least one of the runs has evaluated no rows: there is nothing to pair.");
  const stages = [lastStage(one), lastStage(other)];
  const box = el("div", { id: "paired" });
  const draw = () => {
    const found = pairRows(one, other, stages);
    const n = found.both.length + found.lost.length + found.gained.length + found.none.length;
    const gain = (found.gained.length - found.lost.length) / Math.max(1, n);
    const p = mcnemar(found.lost.length, found.gained.length);
    box.textContent = "";
    box.append(el("h3", {}, "Paired test"), el("div", { class: "controls" },
      names.map((all, i) => select("AB"[i], all.map((name) => [name, name]), stages[i], (value) => { stages[i] = value; draw(); }))));
    if (!n) {
      box.append(el("p", { class: "quiet" }, "The two have no row in common (same id, question and gold answer)."));
      return;
    }
    box.append(el("p", { id: "paired-result" }, `B against A: ${signed(100 * gain, 1)} points on ${n} shared rows; `
      + `${found.gained.length} rows only B has right, ${found.lost.length} only A; McNemar's exact p ${number(p)}. `
      + (p < 0.05 ? "That is hardly chance." : "That can be chance.")),
    drawFlips("only B has right", found.gained), drawFlips("only A has right", found.lost));
  };
  draw();
  return box;
}

function drawFlips(title, rows) {
  const list = el("div", {});
  const box = el("details", { class: "flips" }, el("summary", {}, `${rows.length} rows ${title}`), list);
  box.addEventListener("toggle", () => {
    if (box.open && !list.firstChild) {
      longList(list, rows, (q) => {
        const [id, question, gold] = DATA.questions[q];
        return el("p", {}, el("code", {}, id), ` ${question} `, el("b", {}, gold));
      });
    }
  });
  return box;
}

function drawDifference(one, other) {
  const places = /^(paths|resume|plan|inspect)\b/;
  const keys = [...new Set([...Object.keys(one.config), ...Object.keys(other.config)])].sort()
    .filter((key) => !places.test(key) && one.config[key] !== other.config[key]);
  if (!keys.length) return el("p", {}, "Their configurations are the same.");
  const cell = (value) => el("td", {}, value === undefined ? "absent" : value);
  return el("div", {}, el("h3", {}, "Configuration"), el("div", { class: "scroll" }, el("table", { class: "texts", id: "difference" },
    el("thead", {}, el("tr", {}, ["setting", "A", "B"].map((name) => el("th", {}, name)))),
    el("tbody", {}, keys.map((key) => el("tr", {}, el("td", {}, key), cell(one.config[key]), cell(other.config[key])))))));
}

const OVERLAY_FIRST = ["grad_norm", "entropy", "kl", "finished", "length", "groups_mixed", "verdict_correct", "loss", "reward"]; // the last one first

/** The curves of both runs in the same panels, A solid and B dashed. */
function drawOverlay(one, other) {
  const kinds = [...new Set([...one.curves, ...other.curves].map((stage) => stage.kind))];
  if (!kinds.length) return el("p", { class: "quiet" }, "Neither run has curves.");
  const state = { kind: kinds.includes("grpo") ? "grpo" : kinds.at(-1), by: "step", window: 1, log: false };
  const panels = el("div", { class: "panels", id: "overlay" });
  const redraw = () => {
    const joined = [one, other].map((run) => joinStages(run.curves.filter((stage) => stage.kind === state.kind), state.by));
    const names = Object.keys({ ...joined[0].columns, ...joined[1].columns })
      .filter((name) => !["step", "elapsed_s", "tokens"].includes(name) && joined.some((j) => (j.columns[name] || []).some((v) => v !== null)))
      .sort((a, b) => OVERLAY_FIRST.indexOf(b) - OVERLAY_FIRST.indexOf(a));
    drawPanels(panels, names.map((name) => ({
      name, title: name, note: DATA.columns[name] || "", xLabel: X_LABELS[state.by], window: state.window, log: state.log,
      lines: joined.map((j, i) => ({ label: "AB"[i], x: j.x, y: j.columns[name] || [], colour: COLOURS[i], dash: i ? [6, 3] : undefined })),
    })));
  };
  requestAnimationFrame(redraw);
  followSize(panels);
  return el("div", {}, el("h3", {}, "Curves"), el("div", { class: "controls" },
    select("stages", kinds.map((kind) => [kind, kind]), state.kind, (value) => { state.kind = value; redraw(); }),
    select("x", Object.entries(X_LABELS), state.by, (value) => { state.by = value; redraw(); }),
    select("smoothing", [[1, "none"], [5, "5 steps"], [25, "25 steps"]], state.window, (value) => { state.window = Number(value); redraw(); }),
    el("label", { class: "field" }, el("input", { type: "checkbox", onchange: (event) => { state.log = event.target.checked; redraw(); } }), " log scale")),
  panels);
}
