// The kept groups, step by step: problems on the left, the whole group on the right.

const roll = { stage: "", step: 0, problem: "", everywhere: false, verdict: "", mixed: false, level: "", source: "", tokens: "", text: "", sort: "step" };
const FILTERS = ["verdict", "level", "source", "tokens", "text"];

/** The groups of a stage: step, problem, its completions by falling advantage, and the share of correct ones. */
function groupsOf(stage) {
  if (stage.groupList) return stage.groupList;
  const groups = new Map();
  for (const row of stage.rows) {
    const key = `${row.step}\n${row.problem}`;
    if (!groups.has(key)) groups.set(key, { step: row.step, problem: row.problem, rows: [] });
    groups.get(key).rows.push(row);
  }
  stage.groupList = [...groups.values()];
  for (const group of stage.groupList) {
    group.rows.sort((a, b) => b.advantage - a.advantage);
    const own = group.rows.filter((row) => row.origin === "policy");
    const judged = own.length ? own : group.rows;
    group.right = judged.filter((row) => row.verdict === "correct").length;
    group.size = judged.length;
    const known = group.rows.filter((row) => row.reward !== null);  // others, no term applied to
    group.reward = known.length ? known.reduce((sum, row) => sum + row.reward, 0) / known.length : null;
    group.tokens = group.rows.reduce((sum, row) => sum + row.tokens, 0) / group.rows.length;
  }
  return stage.groupList;
}

function fits(group, problem) {
  if (roll.verdict && !group.rows.some((row) => row.verdict === roll.verdict)) return false;
  if (roll.mixed && (group.right === 0 || group.right === group.size)) return false;
  if (roll.level && String(problem.level) !== roll.level) return false;
  if (roll.source && problem.source !== roll.source) return false;
  if (roll.tokens && !group.rows.some((row) => row.tokens >= Number(roll.tokens))) return false;
  if (!roll.text) return true;
  const text = roll.text.toLowerCase();
  return [problem.question, problem.gold, group.problem, ...group.rows.map((row) => row.text)]
    .some((value) => value.toLowerCase().includes(text));
}

const rollStage = () => DATA.rollouts.find((stage) => stage.stage === roll.stage) || DATA.rollouts.at(-1);
const rollSteps = () => [...new Set(rollStage().rows.map((row) => row.step))].sort((a, b) => a - b);

function visibleGroups() {
  const stage = rollStage();
  const order = { step: (a, b) => a.step - b.step, reward: (a, b) => b.reward - a.reward, length: (a, b) => b.tokens - a.tokens }[roll.sort];
  return groupsOf(stage).filter((group) => (roll.everywhere || group.step === roll.step)
    && fits(group, stage.problems[group.problem])).sort(order);
}

/** The pass rate of a problem over the steps it was drawn in, as a small line. */
function sparkline(problem) {
  const points = groupsOf(rollStage()).filter((group) => group.problem === problem).map((group) => group.right / group.size);
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 60 16");
  svg.setAttribute("class", "spark");
  const line = document.createElementNS("http://www.w3.org/2000/svg", points.length > 1 ? "polyline" : "circle");
  if (points.length > 1) {
    line.setAttribute("points", points.map((p, i) => `${2 + (56 * i) / (points.length - 1)},${14 - 12 * p}`).join(" "));
  } else {
    for (const [name, value] of [["cx", 30], ["cy", 14 - 12 * (points[0] || 0)], ["r", 2]]) line.setAttribute(name, value);
  }
  svg.append(line);
  return svg;
}

function drawRollouts() {
  roll.stage = rollStage().stage;
  roll.step = roll.step || rollSteps().at(-1);
  const stage = rollStage();
  const box = el("div", { id: "rollout-view" });
  const note = `Showing ${stage.kept} of ${stage.groups || "all"} groups a step`
    + (stage.groups > stage.kept ? `, drawn by lot with a mixed one; grpo.transcripts=${stage.groups} keeps all.` : ".")
    + (stage.every > 1 ? ` The texts are long: every ${stage.every}. of ${stage.steps} steps is on this page, all are in the stage's rollouts file.` : "");
  box.append(el("p", { class: "quiet" }, note, " Keys: j k problem, h l step, / search, ? help."), rolloutControls(),
    el("div", { class: "split" }, el("div", { id: "group-list" }), el("div", { id: "group" })));
  return box;
}

function rolloutControls() {
  const steps = rollSteps(), stage = rollStage();
  const values = (name) => [...new Set(Object.values(stage.problems).map((p) => p[name]).filter((v) => v !== null && v !== ""))].sort();
  const pick = (name) => (value) => { roll[name] = value; refreshRollouts(); };
  const check = (name, label) => el("label", { class: "field" }, el("input", { type: "checkbox", checked: roll[name], id: `roll-${name}`,
    onchange: (event) => pick(name)(event.target.checked) }), ` ${label}`);
  return el("div", { class: "controls", id: "rollout-controls" },
    DATA.rollouts.length > 1 ? select("stage", DATA.rollouts.map((s) => [s.stage, s.label]), roll.stage, (value) => {
      Object.assign(roll, { stage: value, step: 0, problem: "" });
      byId("rollout-view").replaceWith(drawRollouts());
      refreshRollouts();
    }) : null,
    el("label", { class: "field wide" }, "step ", el("input", { type: "range", id: "step-slider", min: 0, max: steps.length - 1,
      value: steps.indexOf(roll.step), oninput: (event) => { roll.step = steps[event.target.value]; roll.problem = ""; refreshRollouts(); } }),
    el("output", { id: "step-output" })),
    check("everywhere", "all steps"), check("mixed", "mixed groups only"),
    select("verdict", [["", "any"], ...VERDICTS.map((v) => [v, v.replace("_", " ")])], roll.verdict, pick("verdict")),
    values("level").length ? select("level", [["", "any"], ...values("level").map((v) => [v, v])], roll.level, pick("level")) : null,
    values("source").length > 1 ? select("source", [["", "any"], ...values("source").map((v) => [v, v])], roll.source, pick("source")) : null,
    el("label", { class: "field" }, "tokens from ", el("input", { type: "number", min: 0, value: roll.tokens, "aria-label": "least tokens",
      oninput: (event) => pick("tokens")(event.target.value) })),
    select("sort", [["step", "step"], ["reward", "reward"], ["length", "length"]], roll.sort, pick("sort")),
    el("input", { type: "search", id: "rollout-search", placeholder: "search texts", "aria-label": "search texts", value: roll.text,
      oninput: (event) => pick("text")(event.target.value) }));
}

function refreshRollouts(keepAddress) {
  const groups = visibleGroups();
  if (!groups.some((group) => group.problem === roll.problem && group.step === roll.step) && groups.length) {
    Object.assign(roll, { problem: groups[0].problem, step: groups[0].step });
  }
  const steps = rollSteps();
  byId("step-slider").value = steps.indexOf(roll.step);
  byId("step-output").textContent = `${roll.step} of ${steps.at(-1)}`;
  longList(byId("group-list"), groups, groupItem);
  if (!groups.length) byId("group-list").append(el("p", { class: "quiet" }, "No group fits these filters",
    roll.everywhere ? "." : " at this step; tick “all steps” to look in the others."));
  drawGroup(groups.find((group) => group.problem === roll.problem && group.step === roll.step));
  if (!keepAddress) addressRollouts();
}

function addressRollouts() {
  writeAddress("rollouts", [roll.step, roll.problem], {
    stage: DATA.rollouts.length > 1 ? roll.stage : "", ...Object.fromEntries(FILTERS.map((name) => [name, roll[name]])),
    mixed: roll.mixed ? "1" : "", everywhere: roll.everywhere ? "1" : "", sort: roll.sort === "step" ? "" : roll.sort,
  });
}

function groupItem(group) {
  const problem = rollStage().problems[group.problem];
  const here = group.problem === roll.problem && group.step === roll.step;
  return el("button", { type: "button", class: `item${here ? " current" : ""}`, "aria-current": here ? "true" : null, onclick: () => {
    Object.assign(roll, { problem: group.problem, step: group.step });
    refreshRollouts();
  } }, pictures(problem.pictures.slice(0, 1), "thumb"), el("span", { class: "what" }, el("span", { class: "question" }, problem.question.slice(0, 160)),
    el("span", { class: "quiet" }, roll.everywhere ? `step ${group.step} · ` : "", `${group.right} of ${group.size} right`, sparkline(group.problem))));
}

function drawGroup(group) {
  const box = byId("group");
  box.textContent = "";
  if (!group) return;
  const problem = rollStage().problems[group.problem];
  box.append(el("div", { class: "problem" }, pictures(problem.pictures, "large"), el("div", {},
    el("p", { class: "question" }, problem.question),
    el("p", {}, "gold: ", el("b", {}, problem.gold)),
    el("p", { class: "quiet" }, [`problem ${group.problem}`, `step ${group.step}`, problem.level === null ? "" : `level ${problem.level}`, problem.source,
      `${group.right} of ${group.size} right`, `mean reward ${number(group.reward)}`].filter(Boolean).join(" · ")))),
  ...group.rows.map(completionCard));
}

function completionCard(row) {
  const terms = Object.entries(row.terms || {}).map(([name, value]) => el("span", { class: "term" }, `${name} ${value === null ? "–" : number(value)}`));
  return el("article", { class: `completion is-${row.verdict}` },
    el("p", { class: "facts" }, verdictMark(row.verdict),
      el("span", {}, "reward ", el("b", {}, number(row.reward))), terms,
      el("span", {}, "advantage ", el("b", {}, signed(row.advantage))), el("span", {}, `${row.tokens} tokens`),
      row.finished ? null : el("span", { class: "warn" }, "cut off"), row.kept ? null : el("span", { class: "warn" }, "group dropped"),
      row.origin === "policy" ? null : el("span", { class: "warn" }, row.origin)),
    responseText(row.text), explanation(row.why));
}

/** Goes on by `by` places in the list of groups, or of steps. */
function moveGroup(by) {
  const groups = visibleGroups();
  const at = groups.findIndex((group) => group.problem === roll.problem && group.step === roll.step);
  const next = groups[Math.min(groups.length - 1, Math.max(0, at + by))];
  if (next) { Object.assign(roll, { problem: next.problem, step: next.step }); refreshRollouts(); }
}

function moveStep(by) {
  const steps = rollSteps();
  roll.step = steps[Math.min(steps.length - 1, Math.max(0, steps.indexOf(roll.step) + by))];
  roll.problem = "";
  refreshRollouts();
}

/** Takes the state from an address such as #rollouts/12/q7?verdict=wrong. */
function openRollouts(address) {
  const [step, problem] = address.parts;
  const query = address.query;
  const stage = query.get("stage") || (DATA.rollouts.filter((s) => s.rows.some((row) => String(row.step) === step
    && (!problem || row.problem === problem))).at(-1) || rollStage()).stage;
  Object.assign(roll, Object.fromEntries(FILTERS.map((name) => [name, query.get(name) || ""])),
    { stage, mixed: query.has("mixed"), everywhere: query.has("everywhere"), sort: query.get("sort") || "step", problem: problem || "" });
  const drawn = rollStage().rows.filter((row) => row.problem === problem).map((row) => row.step);
  const steps = drawn.length ? drawn : rollSteps();  // a problem is shown at a step that it was drawn in
  if (step) roll.step = steps.reduce((best, other) => (Math.abs(other - step) < Math.abs(best - step) ? other : best), steps[0]);
  byId("rollout-view").replaceWith(drawRollouts());
  refreshRollouts(true);
}
