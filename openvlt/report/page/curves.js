// The curves of a run: default panels, and every other column by a search.

const RESERVED = new Set(["step", "elapsed_s", "tokens"]);
const curvesState = { stage: "", by: "step", log: false, window: 1, extra: [], search: "" };

/** The default panels for the columns that are there. */
function defaultPanels(joined) {
  const { columns, weights } = joined;
  const terms = Object.keys(columns).filter((name) => name.startsWith("reward_") && !/_(s|std)$/.test(name)
    && name.slice(7) in weights);
  const stacked = terms.length > 1 && terms.every((name) => columns[name].every((v) => !(v * weights[name.slice(7)] < 0)));
  const plan = [
    { name: "reward", title: "reward", use: ["reward"], terms: stacked ? [] : terms },
    { name: "reward_terms", title: "reward by term, each by its weight", use: stacked ? ["reward"] : [], hidden: ["reward"], terms, area: true },
    { name: "groups_mixed", title: "group outcomes: all wrong, mixed, all right", area: true,
      use: ["groups_all_wrong", "groups_mixed", "groups_all_right"], colours: ["--wrong", "--unparsed", "--correct"] },
    { name: "length", title: "length of right and of other answers, tokens", use: ["length_correct", "length_other"],
      colours: ["--correct", "--wrong"] },
    { name: "verdict_correct", title: "verdicts", area: true, use: VERDICTS.map((v) => `verdict_${v}`),
      colours: VERDICTS.map((v) => `--${v}`) },
    { name: "loss", title: "loss", use: ["loss"] },
    { name: "entropy", title: "entropy, nats", use: ["entropy"] },
    { name: "clipped_high", title: "share of clipped tokens, low and high", use: ["clipped_low", "clipped_high"] },
    { name: "ratio_max", title: "ratio, least and greatest", use: ["ratio_min", "ratio_max"] },
    { name: "grad_norm", title: "gradient norm", use: ["grad_norm"] },
    { name: "kl", title: "KL to the reference", use: ["kl"] },
    { name: "generate_s", title: "seconds to generate, judge and update", use: ["generate_s", "reward_s", "update_s"] },
  ];
  return plan.filter((panel) => panel.use.some((name) => columns[name] && columns[name].some((v) => v !== null)));
}

function sentenceOf(name) {
  const known = DATA.columns[name];
  if (known) return known;
  if (name === "tokens") return "completion tokens sampled up to the step";
  if (name === "update_s") return "seconds of the step that were not spent on generating and judging";
  for (const [prefix, key] of [["reward_", "reward_term"], ["verdict_", "verdict_verdict"], ["auxiliary_", "auxiliary_name"]]) {
    if (name.startsWith(prefix)) return DATA.columns[key] || "";
  }
  return DATA.columns.hook || "";
}

function panelOf(plan, joined, state) {
  const there = plan.use.filter((name) => joined.columns[name] && !(plan.hidden || []).includes(name));
  const lines = there.map((name, i) => ({
    label: name, x: joined.x, y: joined.columns[name], colour: plan.colours ? plan.colours[plan.use.indexOf(name)] : COLOURS[i % 6],
  }));
  (plan.terms || []).forEach((name, i) => {
    const weight = joined.weights[name.slice(7)];
    lines.push({
      label: `${weight} × ${name.slice(7)}`, x: joined.x, dash: plan.area ? undefined : [5, 3], colour: COLOURS[(i + 1) % 6],
      y: joined.columns[name].map((v) => (typeof v === "number" ? weight * v : null)),
    });
  });
  const note = [...there, ...(plan.terms || [])].map((name) => `${name}: ${sentenceOf(name)}`).join("\n");
  return { ...plan, lines, note, ticks: joined.ticks, xLabel: X_LABELS[state.by], log: state.log, window: state.window };
}

function drawCurves(stages) {
  const box = el("div", { class: "panels" });
  const state = curvesState;
  const chosen = () => (state.stage === "all" ? stages : stages.filter((stage) => stage.stage === state.stage));
  if (!state.stage) state.stage = (stages.filter((s) => s.kind === "grpo").at(-1) || stages.at(-1)).stage;
  const list = el("div", { class: "columns" });
  const redraw = () => {
    const joined = joinStages(chosen(), state.by);
    const plans = defaultPanels(joined);
    const used = new Set(plans.flatMap((plan) => [...plan.use, ...(plan.terms || [])]));
    const extra = state.extra.filter((name) => joined.columns[name] && !plans.some((plan) => plan.name === name))
      .map((name) => ({ name, title: name, use: [name] }));
    drawPanels(box, [...plans, ...extra].map((plan) => panelOf(plan, joined, state)));
    drawColumnList(list, Object.keys(joined.columns).filter((name) => !RESERVED.has(name) && !used.has(name)), redraw);
  };
  const controls = el("div", { class: "controls" },
    select("stage", [...stages.map((s) => [s.stage, s.label]), ...(stages.length > 1 ? [["all", "all, one after the other"]] : [])],
      state.stage, (value) => { state.stage = value; redraw(); }),
    select("x", Object.entries(X_LABELS), state.by, (value) => { state.by = value; redraw(); }),
    select("smoothing", [[1, "none"], [5, "5 steps"], [10, "10 steps"], [25, "25 steps"], [100, "100 steps"]], state.window,
      (value) => { state.window = Number(value); redraw(); }),
    el("label", { class: "field" }, el("input", { type: "checkbox", onchange: (event) => {
      state.log = event.target.checked;
      redraw();
    } }), " log scale"));
  const search = el("input", { type: "search", placeholder: "find a column", "aria-label": "find a column", oninput: (event) => {
    state.search = event.target.value.toLowerCase();
    redraw();
  } });
  box.show = (name) => {
    const panel = () => byId(`panel-${name}`) || [...box.querySelectorAll(".panel")].find((p) => (p.title || "").includes(`${name}: `));
    if (!panel()) { state.extra.push(name); redraw(); }
    if (!panel()) return;
    panel().classList.add("marked");
    panel().scrollIntoView({ block: "center" });
  };
  requestAnimationFrame(redraw);
  followSize(box);
  box.id = "curve-panels";
  return el("div", {}, controls, box, el("details", { class: "more-columns" },
    el("summary", {}, "other columns of metrics.csv"), search, list));
}

function drawColumnList(list, names, redraw) {
  list.textContent = "";
  const found = names.filter((name) => `${name} ${sentenceOf(name)}`.toLowerCase().includes(curvesState.search));
  for (const name of found) {
    list.append(el("label", { class: "column", title: sentenceOf(name) },
      el("input", { type: "checkbox", checked: curvesState.extra.includes(name), onchange: (event) => {
        curvesState.extra = curvesState.extra.filter((other) => other !== name);
        if (event.target.checked) curvesState.extra.push(name);
        redraw();
      } }), ` ${name} `, el("span", { class: "quiet" }, sentenceOf(name))));
  }
  if (!found.length) list.append(el("p", { class: "quiet" }, "No column fits."));
}
